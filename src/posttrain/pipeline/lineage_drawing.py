"""A drawing of what came from what: models, data and steps from left to right, as SVG.

The classic layered method (Sugiyama, Tagawa and Toda, 1981) in small: layers by longest path, order within a layer by
barycentres, heights by relaxation. A chain too wide for the page continues on the next line, like text. Edges that
leave one node together run together for as long as they can.
"""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any

_WIDTH = 960.0  # what a line may take, margins included
_MARGIN = 30.0  # at the left and right; edges to the next line turn here
_GAP = 46.0  # between two layers
_SPACE = 18.0  # between two nodes of a layer
_LABEL, _DETAIL = 8.0, 6.2  # width of an average letter
_WIDEST = 210.0

KINDS = ("model", "data", "step")

# What the report's style sheet says of a lineage, for a drawing that stands alone; the colours fit a light page.
_ALONE = (
    "text{font:13px system-ui,sans-serif;text-anchor:middle;fill:#1d2430}"
    ".node text:first-of-type{font-weight:600}.node .detail{font-weight:400;font-size:11px;fill:#5c6675}"
    ".edge{fill:none;stroke:#5c6675;stroke-width:1.3}.arrow{fill:#5c6675}"
    ".edge-label{font-size:11px;fill:#5c6675;paint-order:stroke;stroke:#fff;stroke-width:5px}"
    "rect{stroke-width:1.3;fill:#fff;stroke:#5c6675}.model rect{fill:#e8eefc;stroke:#2f5fd0}"
    ".data rect{fill:#e6f4ec;stroke:#2c8557}"
)


@dataclass(eq=False)
class _Item:
    """A node, or the bend of what passes a layer (then `node` is None)."""

    node: Mapping[str, Any] | None
    layer: int
    width: float = 0.0
    height: float = 8.0
    x: float = 0.0  # left edge
    y: float = 0.0  # centre
    before: list[_Item] = field(default_factory=list)
    after: list[_Item] = field(default_factory=list)


def lineage_drawing(lineage: Mapping[str, Any], prefix: str = "lineage") -> str:
    """Draw a lineage.

    Args:
        lineage: ``nodes`` (id, label, kind of `KINDS`, perhaps detail) and ``edges`` (from, to, perhaps label). Edges
            whose ends aren't among the nodes are left out, as are edges that would close a circle.
        prefix: Begins every id of the drawing; unique on the page.

    Returns:
        An ``<svg>`` element, or an empty string when there are no nodes.
    """
    nodes = {str(node["id"]): node for node in lineage.get("nodes") or []}
    if not nodes:
        return ""
    edges = [(str(e[0]), str(e[1]), str(e[2]) if len(e) > 2 and e[2] else "") for e in lineage.get("edges") or []]
    edges = [e for e in edges if e[0] in nodes and e[1] in nodes]
    layer_of = _layers(list(nodes), edges)
    edges = [e for e in edges if layer_of[e[0]] < layer_of[e[1]]]

    items = {name: _node_item(node, layer_of[name]) for name, node in nodes.items()}
    layers: list[list[_Item]] = [[] for _ in range(max(layer_of.values()) + 1)]
    for item in items.values():
        layers[item.layer].append(item)
    bends: dict[tuple[str, int], _Item] = {}
    chains = []
    for a, b, text in edges:
        between = [bends.setdefault((a, n), _Item(None, n)) for n in range(layer_of[a] + 1, layer_of[b])]
        chains.append((_link([items[a], *between, items[b]]), text))
    for (_, n), bend in bends.items():
        layers[n].append(bend)

    _order(layers)
    lines = _lines(layers, {chain[0].layer for chain, text in chains if text})
    line_of = {id(item): n for n, line in enumerate(lines) for layer in line.layers for item in layer}
    for line in lines:
        _heights(line.layers, line_of)
    lanes = _lanes(chains, line_of)
    height = _place(lines, lanes)
    return _svg(prefix, nodes, items, chains, lines, line_of, lanes, height)


def _layers(names: Sequence[str], edges: Sequence[tuple[str, str, str]]) -> dict[str, int]:
    """Each node's layer: one more than its latest predecessor's; a source stands just before its first use."""
    after: dict[str, list[str]] = defaultdict(list)
    waiting = dict.fromkeys(names, 0)
    for a, b, _ in edges:
        after[a].append(b)
        waiting[b] += 1
    sources = [name for name in names if not waiting[name]]
    layer = dict.fromkeys(names, 0)
    left = list(names)
    while left:
        # In a circle nobody is ready; then the first one written breaks it.
        ready = next((name for name in left if waiting[name] <= 0), left[0])
        left.remove(ready)
        for name in after[ready]:
            waiting[name] -= 1
            if name in left:
                layer[name] = max(layer[name], layer[ready] + 1)
    for name in sources:
        if after[name]:
            layer[name] = max(layer[name], min(layer[other] for other in after[name]) - 1)
    return layer


def _node_item(node: Mapping[str, Any], layer: int) -> _Item:
    name, detail = str(node.get("label") or node["id"]), str(node.get("detail") or "")
    width = max(len(name) * _LABEL, len(detail) * _DETAIL) + 28
    return _Item(node, layer, min(max(width, 76.0), _WIDEST), 54.0 if detail else 40.0)


def _link(chain: list[_Item]) -> list[_Item]:
    """Make each item of an edge's way know the next and the last."""
    for one, other in pairwise(chain):
        if other not in one.after:
            one.after.append(other)
            other.before.append(one)
    return chain


def _order(layers: list[list[_Item]]) -> None:
    """Sort each layer by the mean place of its neighbours, forth and back, to untangle crossings."""
    for sweep in range(8):
        forth = sweep % 2 == 0
        place: dict[int, float] = {}
        for layer in layers if forth else reversed(layers):
            keys = {}
            for index, item in enumerate(layer):
                near = [place[id(other)] for other in (item.before if forth else item.after)]
                keys[id(item)] = sum(near) / len(near) if near else float(index)
            layer.sort(key=lambda item: keys[id(item)])
            for index, item in enumerate(layer):
                place[id(item)] = index - (len(layer) - 1) / 2


def _heights(layers: list[list[_Item]], line_of: Mapping[int, int]) -> None:
    """Give every item of a line a y so that ways run straight and nothing touches."""
    for layer in layers:
        _spread(layer, [0.0] * len(layer))
    for _ in range(30):
        for forth in (True, False):
            for layer in layers if forth else reversed(layers):
                _spread(layer, [_wish(item, line_of) for item in layer])


def _wish(item: _Item, line_of: Mapping[int, int]) -> float:
    """Level with the weightiest of the neighbours in the same line."""
    near = [other for other in item.before + item.after if line_of[id(other)] == line_of[id(item)]]
    weightiest = max((_weight(other) for other in near), default=0)
    heights = [other.y for other in near if _weight(other) == weightiest]
    return sum(heights) / len(heights) if heights else item.y


def _weight(item: _Item) -> int:
    """What gives way to what: data to bends, bends to models and steps, and these to the ones in mid-story."""
    if item.node is None:
        return 1
    if item.node.get("kind") == "data":
        return 0
    return 3 if item.before and item.after else 2


def _spread(layer: list[_Item], wishes: list[float]) -> None:
    """Place a layer's items in order, the weightiest at their wishes, the others as near to theirs as room is left."""
    offsets = [0.0]
    for one, other in pairwise(layer):
        offsets.append(offsets[-1] + _room(one, other))
    placed: list[int] = []
    for i in sorted(range(len(layer)), key=lambda i: (-_weight(layer[i]), abs(2 * i + 1 - len(layer)))):
        low = max((layer[j].y + offsets[i] - offsets[j] for j in placed if j < i), default=-inf)
        high = min((layer[j].y + offsets[i] - offsets[j] for j in placed if j > i), default=inf)
        layer[i].y = min(max(wishes[i], low), high)
        placed.append(i)


def _room(one: _Item, other: _Item) -> float:
    return (one.height + other.height) / 2 + _SPACE


@dataclass
class _Line:
    """Layers that share a line of the drawing."""

    layers: list[list[_Item]]
    top: float = 0.0
    bottom: float = 0.0


def _lines(layers: list[list[_Item]], labelled: set[int]) -> list[_Line]:
    """Break the layers into lines that fit the width, and set every x."""
    lines: list[_Line] = [_Line([])]
    x = _MARGIN
    for index, layer in enumerate(layers):
        width = max(item.width for item in layer)
        if lines[-1].layers and x + width > _WIDTH - _MARGIN:
            lines.append(_Line([]))
            x = _MARGIN
        for item in layer:
            if item.node is None:
                item.width = width
            item.x = x + (width - item.width) / 2
        lines[-1].layers.append(layer)
        x += width + _GAP + (36 if index in labelled else 0)
    return lines


def _lanes(chains: Sequence[tuple[list[_Item], str]], line_of: Mapping[int, int]) -> dict[tuple[int, int], int]:
    """Who goes from a line to the next: (line, id of the origin) to a lane of its own between the two lines."""
    lanes: dict[tuple[int, int], int] = {}
    used: dict[int, int] = defaultdict(int)
    for chain, _ in chains:
        for one, other in pairwise(chain):
            n = line_of[id(one)]
            if n != line_of[id(other)] and (n, id(chain[0])) not in lanes:
                lanes[n, id(chain[0])] = used[n]
                used[n] += 1
    return lanes


def _place(lines: Sequence[_Line], lanes: Mapping[tuple[int, int], int]) -> float:
    """Stack the lines; returns the drawing's height."""
    y = 8.0
    for n, line in enumerate(lines):
        items = [item for layer in line.layers for item in layer]
        shift = y - min(item.y - item.height / 2 for item in items)
        for item in items:
            item.y += shift
        line.top, line.bottom = y, max(item.y + item.height / 2 for item in items)
        y = line.bottom + 36 + 9 * sum(1 for line_number, _ in lanes if line_number == n)
    return lines[-1].bottom + 8


def _svg(
    prefix: str,
    nodes: Mapping[str, Mapping[str, Any]],
    items: Mapping[str, _Item],
    chains: Sequence[tuple[list[_Item], str]],
    lines: Sequence[_Line],
    line_of: Mapping[int, int],
    lanes: Mapping[tuple[int, int], int],
    height: float,
) -> str:
    right = max(item.x + item.width for line in lines for layer in line.layers for item in layer)
    width = right + _MARGIN if len(lines) > 1 else right + 2
    left = 0.0 if len(lines) > 1 else _MARGIN - 2
    out = []
    for chain, text in chains:
        path: list[str] = []
        for one, other in pairwise(chain):
            n = line_of[id(one)]
            if n == line_of[id(other)]:
                path.append(_bow(one, other, start=not path))
            else:
                path.append(_turn(one, other, right, lines[n].bottom, lanes[n, id(chain[0])], start=not path))
            if other.node is None:
                path.append(f"H{other.x + other.width:.1f}")
        out.append(f'<path class="edge" d="{"".join(path)}" marker-end="url(#{prefix}-arrow)"/>')
        if text and line_of[id(chain[0])] == line_of[id(chain[1])]:
            x = (chain[0].x + chain[0].width + chain[1].x) / 2
            y = (chain[0].y + chain[1].y) / 2
            out.append(f'<text class="edge-label" x="{x:.1f}" y="{y + 3.5:.1f}">{html.escape(_cut(text, 14))}</text>')
    out.extend(_box(node, items[name]) for name, node in nodes.items())
    title = f"{len(nodes)} models, data sets and steps and what came from what"
    parts = [
        f"{nodes[name].get('label') or name} comes from "
        + " and ".join(str(o.get("label") or o["id"]) for o in _origins(item))
        + "."
        for name, item in items.items()
        if item.before
    ]
    return (
        f'<svg class="lineage" role="img" viewBox="{left:.0f} 0 {width - left:.0f} {height:.0f}" '
        f'style="min-width: {min(width - left, 560):.0f}px" width="{width - left:.0f}" height="{height:.0f}" '
        f'aria-labelledby="{prefix}-title {prefix}-description"><title id="{prefix}-title">{title}</title>'
        f'<desc id="{prefix}-description">{html.escape(" ".join(parts))}</desc>'
        f'<defs><marker id="{prefix}-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path class="arrow" d="M0 0.8 8 4 0 7.2z"/></marker></defs>{"".join(out)}</svg>'
    )


def standalone(drawing: str) -> str:
    """A drawing as a file of its own, with its style and a white ground.

    Args:
        drawing: What `lineage_drawing` gave; not empty.
    """
    head, _, rest = drawing.partition(">")
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{head}><style>{_ALONE}svg{{background:#fff}}</style>{rest}\n"


def _origins(item: _Item) -> list[Mapping[str, Any]]:
    found = []
    for other in item.before:
        while other.node is None:
            other = other.before[0]
        found.append(other.node)
    return found


def _bow(one: _Item, other: _Item, start: bool) -> str:
    """A curve from the right of one item to the left of one in the next layer."""
    x0, x1 = one.x + one.width, other.x
    begin = f"M{x0:.1f} {one.y:.1f}" if start else ""
    if abs(one.y - other.y) < 0.5:
        return f"{begin}L{x1:.1f} {other.y:.1f}"
    middle = (x0 + x1) / 2
    return f"{begin}C{middle:.1f} {one.y:.1f} {middle:.1f} {other.y:.1f} {x1:.1f} {other.y:.1f}"


def _turn(one: _Item, other: _Item, right: float, bottom: float, lane: int, start: bool) -> str:
    """To the right margin, down between the lines, back to the left margin and into the next line."""
    x0, r = one.x + one.width, 6.0
    out, back, between = right + 10 + 5 * (lane % 4), 20 - 5 * (lane % 4), bottom + 16 + 9 * lane
    begin = f"M{x0:.1f} {one.y:.1f}" if start else ""
    return (
        f"{begin}H{out - r:.1f}q{r} 0 {r} {r}V{between - r:.1f}q0 {r} {-r} {r}"
        f"H{back + r:.1f}q{-r} 0 {-r} {r}V{other.y - r:.1f}q0 {r} {r} {r}H{other.x:.1f}"
    )


def _box(node: Mapping[str, Any], item: _Item) -> str:
    kind = str(node.get("kind"))
    kind = kind if kind in KINDS else "step"
    name, detail = str(node.get("label") or node["id"]), str(node.get("detail") or "")
    radius = {"model": 6.0, "data": item.height / 2, "step": 0.0}[kind]
    x = item.x + item.width / 2
    room = item.width - 24
    full = html.escape(f"{kind}: {name}" + (f", {detail}" if detail else ""))
    second = ""
    if detail:
        text = html.escape(_cut(detail, int(room / _DETAIL)))
        second = f'<text class="detail" x="{x:.1f}" y="{item.y + 14:.1f}">{text}</text>'
    return (
        f'<g class="node {kind}"><title>{full}</title>'
        f'<rect x="{item.x:.1f}" y="{item.y - item.height / 2:.1f}" width="{item.width:.1f}" '
        f'height="{item.height:.1f}" rx="{radius:g}"/>'
        f'<text x="{x:.1f}" y="{item.y + (-4 if detail else 4.5):.1f}">'
        f"{html.escape(_cut(name, int(room / _LABEL)))}</text>{second}</g>"
    )


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"
