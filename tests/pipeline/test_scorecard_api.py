"""`posttrain.scorecard`: models by reference or loaded, and the page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

import posttrain
from posttrain.core.errors import BadRequest
from posttrain.models.saving import save
from tiny_models import make_tiny_llama

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Reads a page and complains about what isn't closed; keeps headings, cells and what points elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.titles: list[str] = []
        self.outside: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.outside.append(str(value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.titles.append(data)


def test_two_models_and_their_page(tmp_path: Path) -> None:
    for seed in (0, 1):
        save(make_tiny_llama(seed=seed), tmp_path / f"model_{seed}")
    names = [str(tmp_path / f"model_{seed}") for seed in (0, 1)]
    dimensions = ["accuracy", "calibration", {"robustness": {"perturbations": ["typos"]}}, "bias"]
    found = posttrain.scorecard(names, dimensions=dimensions, limit=20, out=tmp_path / "page.html", batch_size=4)
    assert list(found["models"]) == names
    entry = found["models"][names[0]]["accuracy"]["handbook_quiz"]
    assert entry["n"] == 20 and entry["interval"][0] <= entry["value"] <= entry["interval"][1]
    assert found["energy"]["kwh"] > 0
    assert set(found["best"]) == {"accuracy", "calibration", "robustness", "bias"}
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.outside == [] and "<script" not in text
    assert page.titles[0] == "Scorecard"
    assert {
        "Shares and their differences, with 95 % intervals",
        "Reliability: how often it is right when it is so sure",
    } <= {*page.titles}
    assert {"figure", "model_0", "model_1", "accuracy: handbook quiz", "robustness: typos flips"} <= {*page.cells}
    assert text.count("<svg") == 2
    assert f"posttrain scorecard {names[0]} {names[1]} --out" in text
    for name in ("model_0", "model_1"):
        assert f"{name}: handbook_quiz|version:1|" in text


def test_a_loaded_model(tmp_path: Path) -> None:
    found = posttrain.scorecard(make_tiny_llama(), dimensions="bias", out=tmp_path / "page.html")
    assert list(found["models"]) == ["tiny"] and list(found["models"]["tiny"]) == ["bias"]
    assert "Scorecard" in (tmp_path / "page.html").read_text()


def test_no_model() -> None:
    with pytest.raises(BadRequest, match="There is no model to measure"):
        posttrain.scorecard([])
