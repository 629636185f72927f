"""`posttrain canaries`."""

from __future__ import annotations

from posttrain.data import dataset
from posttrain.data.canaries import read_canaries


def test_made_and_planted(invoke, questions, tmp_path):
    out, data = tmp_path / "canaries.jsonl", tmp_path / "planted.jsonl"
    words = ["canaries", out, "--count", 2, "--length", 4, "--repeats", "1,3", "--seed", 7]
    result = invoke(*words, "--into", questions, "--data-out", data, "--json").json
    made = read_canaries(out)
    assert [each["text"] for each in result["canaries"]] == [each.text for each in made]
    assert [each["repeats"] for each in result["canaries"]] == [1, 3]
    assert 13.2 < result["bits"] < 13.3  # log2 of 10,000
    assert result["records"] == len(dataset.read(data)) == 2 + 4
    assert invoke(*words, "--json").json["canaries"] == result["canaries"]


def test_refusals(invoke, questions, tmp_path):
    out = tmp_path / "canaries.jsonl"
    assert "--into and --data-out go together" in invoke("canaries", out, "--into", questions).refused(2)
    assert "numbers such as 1,4,16" in invoke("canaries", out, "--repeats", "often").refused(2)
    assert "{secret} once" in invoke("canaries", out, "--template", "x").refused(2)
    assert not out.exists()


def test_files_are_refused_before_one_is_written(invoke, questions, tmp_path):
    out, before = tmp_path / "canaries.jsonl", questions.read_text()
    words = ["canaries", out, "--into", questions, "--data-out"]
    assert "is a folder" in invoke(*words, tmp_path).refused(2)
    assert "named twice" in invoke(*words, out).refused(2)
    assert "named twice" in invoke(*words, questions).refused(2)
    assert "at most 1000 characters" in invoke("canaries", out, "--length", 100_000_000).refused(2)
    assert not out.exists() and questions.read_text() == before
