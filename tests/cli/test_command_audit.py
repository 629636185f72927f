"""`posttrain audit`."""

from __future__ import annotations

import sys
from io import StringIO

from rich.text import Text

from posttrain.cli.commands import audit


def test_json_shape(invoke, model, questions):
    result = invoke("audit", questions, model, "--json").json
    assert result["rows"] == 2
    assert 0 < result["loss_tokens"] < result["tokens"]
    assert result["loss_share"] == result["loss_tokens"] / result["tokens"]
    assert result["truncated"] == 0
    assert "⟦" in result["sample"]
    before, after = result["sample"].split("⟦", 1)
    assert "What is the answer?" in before
    assert "forty-two" in after


def test_options(invoke, model, questions):
    assert invoke("audit", questions, model, "--max-length", 5, "--json").json["truncated"] == 2
    everything = invoke("audit", questions, model, "--set", "train_on=all", "--json").json
    assert everything["loss_tokens"] >= everything["tokens"] - 2  # a first token may have no predecessor
    assert "<|im_start|>" in invoke("audit", questions, model, "--chat", "--json").json["sample"]


def test_human_form(invoke, model, questions):
    ran = invoke("audit", questions, model)
    lines = ran.out.splitlines()
    assert any(line.startswith("rows") and line.endswith("2") for line in lines)
    assert any("⟦" in line and "⟧" in line for line in lines)


def test_a_terminal_gets_colours_in_place_of_marks(monkeypatch):
    class Terminal(StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    coloured = audit._coloured("Who? ⟦The dog.⟧ [x]")
    assert isinstance(coloured, Text)
    assert coloured.plain == "Who? The dog. [x]"
    assert [(coloured.plain[s.start : s.end], s.style) for s in coloured.spans] == [
        ("Who? ", "dim"),
        ("The dog.", "green"),
        (" [x]", "dim"),
    ]


def test_missing_data(invoke, model, tmp_path):
    assert "none.jsonl doesn't exist" in invoke("audit", tmp_path / "none.jsonl", model).refused(2)
