"""`posttrain compare-decoding`."""

from __future__ import annotations


def test_figures_of_every_method(invoke, model, tmp_path):
    (tmp_path / "prompts.txt").write_text("The dog\nThe fox\nA model\n")
    command = ["compare-decoding", model, "--prompts", tmp_path / "prompts.txt", "--methods", "greedy,top_p"]
    command += ["--samples", 2, "--max-new-tokens", 6, "--set", "chat=false", "--prefer", "distinct-1=higher"]
    found = invoke(*command, "--json").json
    assert [row["method"] for row in found["methods"]] == ["greedy", "top_p"]
    for key in ("perplexity", "self_bleu", "distinct_1", "distinct_2", "repetition", "tokens", "tokens_per_second"):
        assert all(isinstance(row[key], float) for row in found["methods"])
    assert found["methods"][1]["differences"]["perplexity"]["p_value"] > 0
    assert found["recommended"]["figure"] == "distinct_1"
    shown = invoke(*command).out
    assert "greedy" in shown and "Recommended: " in shown and "The dog" in shown


def test_methods_from_a_file(invoke, model, tmp_path):
    (tmp_path / "ways.yaml").write_text("cold: {search: {sampling: {temperature: 0.1}}}\n")
    command = ["compare-decoding", model, "--methods", tmp_path / "ways.yaml", "--limit", 2, "--samples", 1, "--json"]
    found = invoke(*command, "--max-new-tokens", 4).json
    assert [row["method"] for row in found["methods"]] == ["cold"]
    assert "self_bleu" not in found["methods"][0]


def test_refuses(invoke, model):
    assert "names no direction" in invoke("compare-decoding", model, "--prefer", "tokens").refused(2)
    assert "no search 'graedy'" in invoke("compare-decoding", model, "--methods", "graedy").refused(2)
    unknown = invoke("compare_decoding", model).refused(2)
    assert "There is no command 'compare_decoding'. Did you mean 'compare-decoding'" in unknown
