"""Charts: well-formed, themed by the page, apart from one another, true to their points."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from posttrain.pipeline import views
from posttrain.pipeline.charts import curve_chart, dots_chart, scatter_chart

LOSS = views.curve(
    "Loss", "step", "loss", {"training": [(0, 3.0), (1, 2.0), (2, 1.0)], "held out": [(0, 3.5), (2, 1.5)]}
)


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def test_curve_is_well_formed_and_says_what_it_shows() -> None:
    root = parse(curve_chart(LOSS, "a"))
    assert [child.tag for child in root[:2]] == ["title", "desc"]
    assert root[0].text == "Loss"
    assert root[1].text == (
        "training: from 3 at 0 to 1 at 2; lowest 1, highest 3. "
        "held out: from 3.5 at 0 to 1.5 at 2; lowest 1.5, highest 3.5."
    )
    shown = {(element.text or "").strip() for element in root.iter("text")}
    assert {"step", "loss", "training", "held out"} <= shown


def test_a_line_runs_through_its_points() -> None:
    """(0, 0), (1, 4), (2, 2): the middle lies halfway across, and its rise is twice that of the end."""
    root = parse(curve_chart(views.curve("t", "x", "y", {"a": [(0, 0), (1, 4), (2, 2)]}), "a"))
    style = "fill: none; stroke: var(--series-1"
    (line,) = [path.get("d", "") for path in root.iter("path") if path.get("style", "").startswith(style)]
    (x0, y0), (x1, y1), (x2, y2) = [tuple(map(float, pair)) for pair in re.findall(r"(-?[\d.]+) (-?[\d.]+)", line)]
    assert x0 < x1 < x2 and x1 - x0 == pytest.approx(x2 - x1, abs=1e-3)
    assert y0 - y1 == pytest.approx(2 * (y0 - y2), abs=1e-3)  # y points down in SVG
    assert y0 - y1 > 100  # the curve fills the drawing


def test_text_that_looks_like_markup_stays_as_it_is() -> None:
    name = 'id="x" url(#x) #010101 font-family: y'
    root = parse(curve_chart(views.curve(name, "x", name, {"a": [(0, 0), (1, 4)]}), "a"))
    assert root.findtext("title") == name
    assert name in [(element.text or "").strip() for element in root.iter("text")]


@pytest.mark.parametrize("draw", [lambda p: curve_chart(LOSS, p), lambda p: scatter_chart(SIZES, p)])
def test_nothing_depends_on_the_moment_or_on_elsewhere(draw: object) -> None:
    one = draw("a")  # type: ignore[operator]
    assert draw("a") == one  # type: ignore[operator]
    assert "http" not in one and "<style" not in one and "<metadata" not in one and "<!--" not in one
    ids = re.findall(r'\bid="([^"]*)"', one)
    assert ids and all(i.startswith("a-") for i in ids) and len(ids) == len(set(ids))
    for reference in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', one):
        assert "".join(reference) in ids


SIZES = views.scatter("Trade-off", "bytes", "perplexity", {"base": (2.69e8, 18.4273), "small $x$": (9.1e7, 20.1)})


def test_scatter_names_its_points_in_units() -> None:
    svg = scatter_chart(SIZES, "s")
    root = parse(svg)
    shown = {(element.text or "").strip() for element in root.iter("text")}
    assert {"size", "perplexity", "base", "small $x$", "100 MB"} <= shown
    assert root[1].text == "base: 269.0 MB by 18.43. small $x$: 91.0 MB by 20.1."


def test_names_of_neighbours_do_not_lie_on_each_other() -> None:
    points = {f"point {n}": (1.0 + n * 1e-3, 1.0 + n * 1e-3) for n in range(3)} | {"far": (2.0, 2.0)}
    root = parse(scatter_chart(views.scatter("t", "x", "y", points), "s"))
    places = set()
    for element in root.iter("text"):
        if (element.text or "").startswith("point"):
            style = element.get("style", "")
            places.add((element.get("x"), element.get("y"), re.sub(r".*text-anchor: (\w+).*", r"\1", style)))
    assert len(places) == 3


def test_ink_follows_the_page() -> None:
    svg = curve_chart(LOSS, "a") + scatter_chart(SIZES, "b")
    assert "currentColor" in svg and "var(--series-1, #0072b2)" in svg and "var(--series-2, #d55e00)" in svg
    assert "#0102" not in svg and "#010101" not in svg
    assert "DejaVu" not in svg


def test_missing_numbers_break_the_line() -> None:
    nan = float("nan")
    for gap in (None, nan, float("inf")):
        view = {**LOSS, "series": {"a": [[0, 1.0], [1, gap], [2, 3.0], [3, 4.0]]}}
        assert "from 1 at 0 to 4 at 3; lowest 1, highest 4" in curve_chart(view, "a")


def test_nothing_to_draw() -> None:
    assert curve_chart({**LOSS, "series": {"a": [], "b": [[0, None]]}}, "a") == ""
    assert scatter_chart({**SIZES, "points": {"a": [None, 1.0]}}, "a") == ""


@pytest.mark.parametrize("name", ["_hidden", "cost $5 and $6", "a<b>&\"c'", "ключ", "x" * 300, "", "two\nlines"])
def test_any_name_may_be_drawn(name: str) -> None:
    parse(curve_chart(views.curve(name, name, name, {name: [(0, 1)], "other": [(1, 2)]}), "a"))
    parse(scatter_chart(views.scatter(name, name, name, {name: (0, 1), "other": (0, 1)}), "a"))


def test_constant_and_single_values_draw() -> None:
    for values in ([(0, 0.0)], [(0, 5.0), (1, 5.0)], [(0, 1e-12), (1, 2e-12)], [(0, 1e12), (10**7, 2e12)]):
        parse(curve_chart(views.curve("t", "x", "y", {"a": values}), "a"))


ROWS = views.dots(
    "Shares",
    "share",
    {
        "accuracy": {"base": (0.25, 0.1, 0.4), "tuned": (0.5, 0.35, 0.65)},
        "few items": {"base": (0.3, None, None), "tuned": None},
        "nobody": {"base": None, "tuned": None},
    },
)


def test_rows_of_dots_say_what_they_show() -> None:
    root = parse(dots_chart(ROWS, "a"))
    assert root.findtext("desc") == "accuracy: base 0.25, tuned 0.5. few items: base 0.3."
    shown = {(element.text or "").strip() for element in root.iter("text")}
    assert {"accuracy", "few items", "share", "base", "tuned"} <= shown and "nobody" not in shown


def test_dots_lie_at_their_values() -> None:
    """Two models in the first row at 0.25 and 0.5; one of them at 0.3 in the second, a fifth of the way between."""
    root = parse(dots_chart(ROWS, "a"))
    found = {}
    for use in root.iter("use"):
        if match := re.search(r"fill: var\(--series-(\d)", use.get("style", "")):
            found.setdefault(match[1], []).append((float(use.get("x", "")), float(use.get("y", ""))))
    (base, few), (tuned,) = found["1"][:2], found["2"][:1]
    assert base[0] < few[0] < tuned[0] and few[0] - base[0] == pytest.approx((tuned[0] - base[0]) / 5, abs=0.1)
    assert base[1] < tuned[1] < few[1]  # y points down: rows from top to bottom, series from top to bottom inside a row


def test_no_dots_no_drawing() -> None:
    assert dots_chart(views.dots("t", "x", {"a": {"one": None}}), "a") == ""


def test_an_interval_beside_its_value_is_drawn() -> None:
    """A figure that is biased upwards may have an interval that begins above it."""
    assert dots_chart(views.dots("t", "x", {"a": {"one": (0.1, 0.2, 0.3)}}), "a").startswith("<svg")
