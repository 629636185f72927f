"""`posttrain tune-decoding`, and `posttrain generate` with what it saved."""

from __future__ import annotations

import json


def test_what_is_saved_is_read_by_generate(invoke, model, tmp_path):
    rows = [{"prompt": f"Say {i}: ", "completion": f"fox {i}"} for i in range(8)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "space.yaml").write_text("warm: {search: {sampling: {temperature: [0.5, 0.9]}}}\n")
    command = ["tune-decoding", model, "--data", tmp_path / "data.jsonl", "--metric", "rouge", "--max-new-tokens", 4]
    command += ["--space", tmp_path / "space.yaml", "--save", tmp_path / "best.yaml", "--set", "chat=false"]
    found = invoke(*command, "--json").json
    assert len(found["candidates"]) == 3 and found["judged_by"] == "rouge"
    assert found["recommended"] in {row["way"] for row in found["candidates"]}
    shown = invoke(*command).out
    assert "Recommended: " in shown and "use: Tuned by rouge on 8 prompts" in shown
    written = invoke("generate", model, "The dog", "--preset", tmp_path / "best.yaml", "--max-new-tokens", 3, "--json")
    assert len(written.json["generations"]) == 1


def test_a_preset_with_processors(invoke, model, tmp_path):
    """The processors of a preset come before those that are added on the command line."""
    (tmp_path / "mine.yaml").write_text(
        "use: Short words.\nsearch: {sampling: {temperature: 0.0}}\nprocess: [{bad_words: {words: ['a']}}]\n"
    )
    found = invoke(
        "generate", model, "The dog", "--preset", tmp_path / "mine.yaml", "--max-new-tokens", 8, "--json"
    ).json
    assert "a" not in found["generations"][0]["text"]
    assert "Unknown key" in _broken(invoke, model, tmp_path, "use: x\nsaerch: {greedy: {}}\n")
    assert "There is no" in invoke("generate", model, "A", "--preset", tmp_path / "none.yaml").refused(2)


def _broken(invoke, model, tmp_path, text):
    (tmp_path / "broken.yaml").write_text(text)
    return invoke("generate", model, "A", "--preset", tmp_path / "broken.yaml").refused(2)


def test_refuses(invoke, model):
    assert "give either `metric` or `reward`" in invoke("tune-decoding", model).refused(2)
