"""`posttrain temperature`."""

from __future__ import annotations

import pytest

from posttrain.cli.commands import temperature


def test_help_lists_what_there_is_and_each_explains_itself(invoke):
    shown = invoke("temperature", "--help")
    assert shown.code == 0
    for word in ("sweep", "distribution", "presets"):
        assert f"  {word}" in shown.out
        own = invoke("temperature", word, "--help")
        assert own.code == 0 and f"posttrain temperature {word}" in own.out


def test_a_word_is_needed(invoke):
    assert "needs a word that says what to do. Known: sweep, distribution, presets." in invoke("temperature").refused(2)
    assert "Did you mean 'sweep'?" in invoke("temperature", "swep", "m").refused(2)
    assert "has no option --topp" in invoke("temperature", "distribution", "m", "p", "--topp", 1).refused(2)


def test_presets(invoke):
    found = {each["preset"]: each for each in invoke("temperature", "presets", "--json").json["presets"]}
    assert found["balanced"]["search"] == {"sampling": {"temperature": 0.8, "top_p": 0.9}}
    assert found["exploration"]["range"] == [1.5, None]
    shown = invoke("temperature", "presets").out
    assert "0.1 to 0.3" in shown and "1.5 and more" in shown and "temperature 1.2, top_p 0.95" in shown


def test_a_preset_is_a_way_to_generate(invoke, model):
    drawn = ["generate", model, "The dog", "--max-new-tokens", 8, "--seed", 3, "--json"]
    by_name = invoke(*drawn, "--preset", "low_risk").json["generations"]
    by_hand = invoke(*drawn, "--temperature", 0.3, "--top-p", 0.5).json["generations"]
    assert by_name == by_hand
    hotter = invoke(*drawn, "--preset", "low_risk", "--temperature", 9, "--top-p", 1).json["generations"]
    assert hotter == invoke(*drawn, "--temperature", 9).json["generations"]
    assert "There is no preset 'chatt'. Did you mean 'chat'?" in invoke(*drawn, "--preset", "chatt").refused(2)
    assert "Leave out --search" in invoke(*drawn, "--preset", "chat", "--search", "greedy").refused(2)


def test_distribution(invoke, model):
    command = ["temperature", "distribution", model, "The dog", "--temperatures", "0.5,1,3", "--top", 4]
    found = invoke(*command, "--json").json
    assert found["temperatures"] == [0.5, 1, 3]
    assert len(found["tokens"]) == 4
    for place in range(3):
        shares = [token["probabilities"][place] for token in found["tokens"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) + found["rest"][place] == pytest.approx(1)
    assert found["entropies"] == sorted(found["entropies"])
    shown = invoke(*command).out
    assert "τ = 0.5" in shown and "█" in shown and "entropy" in shown and "%" in shown


def test_bars_have_the_length_of_the_share():
    """Of 8 letters a half is 4, and 3/64 is three eighths of one."""
    assert temperature._bar(0.5, 8).plain == "████      50.0%"
    assert temperature._bar(3 / 64, 8).plain == "▍          4.7%"
    assert temperature._bar(1.0, 8).plain == "████████ 100.0%"


def test_sweep(invoke, model, tmp_path):
    (tmp_path / "prompts.txt").write_text("The dog\nThe fox\nA model\n")
    command = [
        "temperature",
        "sweep",
        model,
        "--prompts",
        tmp_path / "prompts.txt",
        "--temperatures",
        "0,1",
        "--seed",
        1,
    ]
    command += ["--samples", 2, "--max-new-tokens", 6, "--limit", 2, "--set", "chat=false"]
    found = invoke(*command, "--json").json
    assert [row["temperature"] for row in found["temperatures"]] == [0, 1]
    assert found["recommended"] in (0, 1) and found["prompts"] == 2
    shown = invoke(*command).out
    assert "Recommended: " in shown and "perplexity" in shown
    assert "isn't a list of numbers" in invoke("temperature", "sweep", model, "--temperatures", "a").refused(2)
