"""`posttrain filter`."""

from __future__ import annotations

import json

import pytest

TEXTS = ["The fox runs over the field.", "The dog sleeps.", "Rain fell all night.", "q%zX@#vK~ q%zX@#vK~"]


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


@pytest.fixture
def many(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("".join(f"The fox number {n} runs over field {n % 7}.\n" for n in range(25)))
    return path


def test_filter(invoke, model, texts, tmp_path):
    out = tmp_path / "kept.jsonl"
    result = invoke("filter", model, texts, "--out", out, "--keep", 0.5, "--json").json
    assert (result["texts"], result["kept"], result["out"]) == (4, 2, str(out))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["text"] for row in rows} < set(TEXTS)
    assert max(row["perplexity"] for row in rows) <= result["perplexity"]["p50"]
    assert "|special:begin|" in result["signature"] and result["seconds"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.jsonl", "model", "texts.txt"]
    low, high = (sorted(row["perplexity"] for row in rows)[place] for place in (0, 1))
    band = invoke("filter", model, texts, "--out", out, "--between", low - 1e-3, low + 1e-3, "--json").json
    assert band["kept"] == 1 and high > low + 1e-3
    below = invoke("filter", model, texts, "--out", out, "--max-perplexity", high + 1e-3, "--json").json
    assert below["kept"] == 2


def test_filter_against_a_reference(invoke, model, texts, many, tmp_path):
    out = tmp_path / "flagged.jsonl"
    words = ["filter", model, texts, "--out", out, "--reference", many, "--flag"]
    result = invoke(*words, "--max-z", 3, "--json").json
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 4 and result["reference_texts"] == 25
    assert all(0 < row["quality"] <= 1 and (abs(row["z"]) <= 3) == row["kept"] for row in rows)
    shown = invoke(*words)
    assert shown.code == 0 and any(line.startswith("kept") for line in shown.out.splitlines())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "a.jsonl"], "Nothing says which texts to keep"),
        (["--out", "a.txt", "--keep", "0.5"], "a.txt isn't named .jsonl"),
        (["--out", "a.jsonl", "--keep", "2"], "'filter.keep' doesn't fit"),
        (["--keep", "0.5"], "--out"),
    ],
)
def test_filter_refuses(invoke, model, texts, words, sentence):
    assert sentence in invoke("filter", model, texts, *words, "--json").refused(2)


def test_filter_does_not_write_over_its_data(invoke, model, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "a b"}\n')
    assert "is the data itself" in invoke("filter", model, data, "--out", data, "--keep", 1).refused(2)


def test_a_place_that_cannot_be_written_is_refused_before_the_model_is_looked_for(invoke, texts):
    words = ["filter", "no-such-model", texts, "--keep", 0.5]
    assert "texts.txt is no folder" in invoke(*words, "--out", texts / "kept.jsonl", "--json").refused(2)
