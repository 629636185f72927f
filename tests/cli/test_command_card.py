"""`posttrain card`."""

from __future__ import annotations


def test_card_lies_beside_every_model(invoke, rounded, tmp_path):
    text = invoke("card", rounded, "--json").json["card"]
    assert "# rounded" in text
    assert (rounded / "README.md").read_text(encoding="utf-8") == text
    assert invoke("card", rounded).out == text
    assert invoke("card", rounded, "--out", tmp_path / "card.md").out == f"Written: {tmp_path / 'card.md'}\n"
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == text
