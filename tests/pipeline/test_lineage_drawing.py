"""The lineage drawing: everything once, left to right, nothing overlapping, any graph accepted."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from typing import Any

import pytest

from posttrain.pipeline.lineage_drawing import lineage_drawing


def lineage(edges: list[Any], kinds: dict[str, str] | None = None) -> dict[str, Any]:
    names = dict.fromkeys(end for edge in edges for end in edge[:2])
    nodes = [{"id": n, "label": f"the {n}", "kind": (kinds or {}).get(n, "model")} for n in names]
    return {"nodes": nodes, "edges": edges}


def boxes(svg: str) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of each node's box by label."""
    found = {}
    for group in ElementTree.fromstring(svg).iter("g"):
        rect = group.find("rect")
        text = group.find("text")
        assert rect is not None and text is not None
        x, y, w, h = (float(rect.get(key, "")) for key in ("x", "y", "width", "height"))
        found[str(text.text)] = (x, y, x + w, y + h)
    return found


def edges_drawn(svg: str) -> int:
    return svg.count('class="edge"')


def test_chain_runs_left_to_right_on_one_level() -> None:
    drawn = boxes(lineage_drawing(lineage([["a", "b"], ["b", "c"]])))
    a, b, c = (drawn[f"the {n}"] for n in "abc")
    assert a[2] < b[0] and b[2] < c[0]
    assert a[1] == b[1] == c[1]


def test_data_stands_just_before_its_use() -> None:
    # a → b → c → d, and data into d: its layer is c's, not a's.
    drawn = boxes(lineage_drawing(lineage([["a", "b"], ["b", "c"], ["c", "d"], ["data", "d"]], {"data": "data"})))
    across = [(box[0] + box[2]) / 2 for box in (drawn["the data"], drawn["the c"])]
    assert across[0] == across[1]
    # The story stays level; data gives way.
    assert drawn["the a"][1] == drawn["the b"][1] == drawn["the c"][1] == drawn["the d"][1]


def test_a_long_edge_goes_round_what_lies_between() -> None:
    svg = lineage_drawing(lineage([["a", "b"], ["b", "c"], ["a", "c"]]))
    b = boxes(svg)["the b"]
    (round_b,) = re.findall(r'd="([^"]*H[^"]*)"', svg)
    (y, x) = re.findall(r" ([\d.]+)H([\d.]+)", round_b)[0]
    assert not b[1] <= float(y) <= b[3] and float(x) >= b[2] - 1


def test_a_chain_too_wide_continues_below() -> None:
    names = [f"n{i}" for i in range(20)]
    svg = lineage_drawing(lineage([[a, b] for a, b in pairwise(names)]))
    drawn = boxes(svg)
    assert len(drawn) == 20 and max(box[2] for box in drawn.values()) <= 960
    rows = sorted({box[1] for box in drawn.values()})
    assert len(rows) > 1
    assert drawn["the n19"][1] == rows[-1] and drawn["the n0"][1] == rows[0]


@pytest.mark.parametrize("seed", range(30))
def test_boxes_never_overlap(seed: int) -> None:
    chance = random.Random(seed)
    count = chance.randint(2, 22)
    edges = [[f"n{a}", f"n{b}"] for b in range(1, count) for a in range(b) if chance.random() < 2 / count]
    kinds = {f"n{i}": chance.choice(["model", "data", "step"]) for i in range(count)}
    given = lineage(edges, kinds)
    svg = lineage_drawing(given)
    if not edges:
        assert svg == ""
        return
    drawn = list(boxes(svg).values())
    assert len(drawn) == len(given["nodes"]) and edges_drawn(svg) == len(edges)
    height = float(re.findall(r'viewBox="\d+ 0 \d+ (\d+)"', svg)[0])
    for i, one in enumerate(drawn):
        assert one[0] >= 0 and one[2] <= 960 and one[1] >= 0 and one[3] <= height
        for other in drawn[:i]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_circles_and_loose_ends_are_survived() -> None:
    svg = lineage_drawing(
        {**lineage([["a", "b"], ["b", "c"]]), "edges": [["a", "b"], ["b", "c"], ["c", "a"], ["a", "a"], ["gone", "b"]]}
    )
    assert len(boxes(svg)) == 3
    assert edges_drawn(svg) == 2


def test_empty() -> None:
    assert lineage_drawing({}) == "" and lineage_drawing({"nodes": [], "edges": None}) == ""


def test_words_are_escaped_cut_and_kept_in_full_beside() -> None:
    long = "a name & <b>that</b> is far too long to fit into any box"
    svg = lineage_drawing(
        {
            "nodes": [{"id": "x", "label": long, "kind": "data", "detail": "12 rows"}, {"id": "y"}],
            "edges": [["x", "y", "<i>"]],
        }
    )
    root = ElementTree.fromstring(svg)
    titles = [element.text for element in root.iter("title")]
    assert f"data: {long}, 12 rows" in titles and "step: y" in titles
    assert root.findtext("desc") == f"y comes from {long}."
    shown = [element.text for element in root.iter("text")]
    assert "<i>" in shown and any(text and text.endswith("…") and long.startswith(text[:-1]) for text in shown)


def test_same_lineage_same_bytes() -> None:
    given = lineage([["a", "b"], ["a", "c"], ["b", "d"], ["c", "d"], ["a", "d"]])
    assert lineage_drawing(given) == lineage_drawing(given)
