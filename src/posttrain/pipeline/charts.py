"""Curves, scatter plots and rows of dots as SVG that lives inside a page.

Matplotlib does the axes. Its output is then made to belong to the page: text takes the page's font, ink is
`currentColor`, series colours are CSS variables (so one drawing serves light screens, dark screens and paper), ids are
prefixed so that many drawings can share a page, and a title and a description say in words what is seen. The same view
always gives the same bytes.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from posttrain.pipeline.quantities import byte_size, label, show, unit_of
from posttrain.pipeline.views import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# The colours of Okabe and Ito (2008), distinguishable with every kind of colour vision; yellow is left out, it vanishes
# on white. The page may override them through --series-N.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9")
_DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P")

_INK = "#010101"  # stands for currentColor until the SVG is written
_WIDTH, _HEIGHT = 10.0, 4.3  # inches of 72 units
_FONT = 11.5
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "posttrain",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",  # shipped with matplotlib; wider than the page's font, so what fits here fits there
    "font.size": _FONT,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": _INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.8,
    "path.simplify": True,
}


def curve_chart(view: View, prefix: str) -> str:
    """Draw a `views.curve`.

    Args:
        view: The view; a coordinate that is null breaks the line.
        prefix: Begins every id of the drawing; unique on the page.

    Returns:
        An ``<svg>`` element, or an empty string when there is no point to draw.
    """
    series = {name: _finite_gaps(points) for name, points in view["series"].items()}
    series = {name: points for name, points in series.items() if any(_drawn(p) for p in points)}
    if not series:
        return ""

    def draw(axes: Axes) -> None:
        lines = []
        for index, points in enumerate(series.values()):
            few = len(points) <= 25
            (line,) = axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                color=_series_ink(index),
                linewidth=1.8,
                linestyle=_DASHES[index % len(_DASHES)],
                marker=_MARKERS[index % len(_MARKERS)] if few else None,
                markersize=5,
            )
            lines.append(line)
        if len(series) > 1:
            # A name that starts with an underscore would be dropped from the legend.
            names = [_short(name, 40) if not name.startswith("_") else f" {_short(name, 40)}" for name in series]
            columns = min(len(names), 4)
            axes.legend(
                lines, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, handlelength=3
            )

    points = [p for values in series.values() for p in values if _drawn(p)]
    sentences = [_describe_line(name, values) for name, values in series.items()]
    return _svg(view, prefix, points, draw, " ".join(sentences))


def scatter_chart(view: View, prefix: str) -> str:
    """Draw a `views.scatter`, each point with its name beside it.

    Args:
        view: The view; points with a null coordinate are left out.
        prefix: Begins every id of the drawing; unique on the page.

    Returns:
        An ``<svg>`` element, or an empty string when there is no point to draw.
    """
    named = {name: point for name, values in view["points"].items() if _drawn(point := _finite_gaps([values])[0])}
    if not named:
        return ""

    def draw(axes: Axes) -> None:
        axes.margins(0.12, 0.18)
        for index, (x, y) in enumerate(named.values()):
            axes.plot([x], [y], marker=_MARKERS[index % len(_MARKERS)], markersize=8, color=_series_ink(index))
        _label_points(axes, named)

    sentences = [f"{name}: {show(x, view['x_label'])} by {show(y, view['y_label'])}." for name, (x, y) in named.items()]
    return _svg(view, prefix, list(named.values()), draw, " ".join(sentences))


def dots_chart(view: View, prefix: str) -> str:
    """Draw a `views.dots`, rows from top to bottom, the series of a row a little apart.

    Args:
        view: The view.
        prefix: Begins every id of the drawing; unique on the page.

    Returns:
        An ``<svg>`` element, or an empty string when there is no dot to draw.
    """
    rows = {row: each for row, each in view["rows"].items() if any(dot is not None for dot in each.values())}
    if not rows:
        return ""
    names = list(dict.fromkeys(name for each in rows.values() for name in each))
    apart = 0.5 / len(names)

    def draw(axes: Axes) -> None:
        handles: list[Any] = []
        for index, name in enumerate(names):
            places, values, left, right = [], [], [], []
            for row, each in enumerate(rows.values()):
                if (dot := each.get(name)) is not None:
                    value, low, high = dot
                    places.append(row + (index - (len(names) - 1) / 2) * apart)
                    values.append(value)
                    left.append(0 if low is None else value - low)
                    right.append(0 if high is None else high - value)
            # The interval of a biased figure may lie to one side of it.
            spread = [[max(0, each) for each in left], [max(0, each) for each in right]]
            marker, ink = _MARKERS[index % len(_MARKERS)], _series_ink(index)
            handles.append(
                axes.errorbar(values, places, xerr=spread, fmt=marker, color=ink, markersize=6, linewidth=1.4)
            )
        axes.set_yticks(range(len(rows)), [_short(row, 44) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        if len(names) > 1:
            shown = [_short(name, 40) for name in names]
            axes.legend(
                handles, shown, loc="lower left", bbox_to_anchor=(0, 1), ncols=min(len(names), 4), frameon=False
            )

    sentences = [
        f"{row}: " + ", ".join(f"{name} {show(dot[0])}" for name, dot in each.items() if dot is not None) + "."
        for row, each in rows.items()
    ]
    points = [(dot[0], float(place)) for place, each in enumerate(rows.values()) for dot in each.values() if dot]
    height = 1.2 + 0.36 * len(rows)
    return _svg({**view, "y_label": ""}, prefix, points, draw, " ".join(sentences), height)


def _finite_gaps(points: Sequence[Sequence[float | None]]) -> list[tuple[float, float]]:
    """Points as floats, null as not-a-number."""
    return [tuple(float("nan") if v is None else float(v) for v in point[:2]) for point in points]  # type: ignore[misc]


def _drawn(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _describe_line(name: str, values: Sequence[tuple[float, float]]) -> str:
    points = [p for p in values if _drawn(p)]
    (first_x, first_y), (last_x, last_y) = points[0], points[-1]
    low, high = min(y for _, y in points), max(y for _, y in points)
    return (
        f"{name}: from {show(first_y)} at {show(first_x)} to {show(last_y)} at {show(last_x)}; "
        f"lowest {show(low)}, highest {show(high)}."
    )


def _series_ink(index: int) -> str:
    """A colour that stands for series `index` until the SVG is written."""
    return f"#0102{index % len(PALETTE) + 1:02x}"


def _svg(
    view: View,
    prefix: str,
    points: Sequence[tuple[float, float]],
    draw: Any,
    description: str,
    height: float = _HEIGHT,
) -> str:
    """Draw on new axes with labels, ticks and grid, and return an element for the page."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Letters this font lacks are measured as boxes; the reader's browser has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(_WIDTH, height), dpi=72, layout="constrained")
        FigureCanvasAgg(figure)  # measures text
        axes = figure.add_subplot()
        _axis(axes.xaxis, view["x_label"], [x for x, _ in points])
        _axis(axes.yaxis, view["y_label"], [y for _, y in points])
        axes.grid(axis="both")
        axes.tick_params(length=0, pad=6)
        draw(axes)
        return _inline(_source(figure), prefix, view["title"], description, height)


def _axis(axis: Axis, name: str, values: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_label_text(_short(label(name), 50))
    whole = all(v == round(v) for v in values)
    axis.set_major_locator(
        MaxNLocator(nbins=8, integer=whole, steps=[1, 2, 2.5, 5, 10] if not whole else [1, 2, 5, 10])
    )
    if unit_of(name) == "bytes":
        axis.set_major_formatter(
            FuncFormatter(lambda value, _: re.sub(r"\.0+ ", " ", byte_size(value)) if value else "0")
        )
    elif max(abs(v) for v in values) >= 10_000:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _label_points(axes: Axes, named: dict[str, tuple[float, float]]) -> None:
    """Put each name where it hides the least of what is already there."""
    figure = axes.figure
    for x, y in named.values():
        axes.update_datalim([(x, y)])
    axes.autoscale_view()
    figure.canvas.draw()
    frame = axes.get_window_extent()
    taken: list[tuple[float, float, float, float]] = []
    for point in named.values():
        x, y = axes.transData.transform(point)
        taken.append((x - 5, y - 5, x + 5, y + 5))
    places: list[tuple[int, int, Any, Any]] = [
        (9, 0, "left", "center"),
        (-9, 0, "right", "center"),
        (0, 9, "center", "bottom"),
        (0, -9, "center", "top"),
        (7, 7, "left", "bottom"),
        (-7, -7, "right", "top"),
    ]
    for name, point in named.items():
        best = None
        for dx, dy, across, up in places:
            text = axes.annotate(
                _short(name, 40), point, (dx, dy), textcoords="offset points", ha=across, va=up, annotation_clip=False
            )
            text.set_in_layout(False)
            box = text.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
            inside = _overlap(box.extents, frame.extents)
            cost = sum(_overlap(box.extents, other) for other in taken) + (box.width * box.height - inside)
            if best is None or cost < best[0] - 1:
                if best is not None:
                    best[1].remove()
                best = (cost, text, (box.x0, box.y0, box.x1, box.y1))
            else:
                text.remove()
        assert best is not None
        taken.append(best[2])


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Common area of two boxes (left, bottom, right, top)."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    up = min(one[3], other[3]) - max(one[1], other[1])
    return float(max(across, 0) * max(up, 0))


def _source(figure: Figure) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return buffer.getvalue()


def _belonging(tag: str, prefix: str) -> str:
    """Give a tag the page's font and colours and ids of its own."""
    tag = re.sub(r'\bid="', f'id="{prefix}-', tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}-', tag).replace("url(#", f"url(#{prefix}-")
    tag = re.sub(r'\bfont: ([\d.]+px) [^;"]*', r"font-size: \1", tag)
    tag = re.sub(r'font-family: [^;"]*;? ?', "", tag)
    tag = tag.replace(_INK, "currentColor")
    for index, colour in enumerate(PALETTE):
        tag = tag.replace(_series_ink(index), f"var(--series-{index + 1}, {colour})")
    return tag


def _inline(source: str, prefix: str, title: str, description: str, height: float) -> str:
    """Make a standalone SVG file an element of the page."""
    body = source[source.index("<svg") :]
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _belonging(tag[0], prefix), body)  # tags only: text may look like them
    body = re.sub(r"\n\s*", "\n", body)
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {_WIDTH * 72:g} {height * 72:g}" '
        f'aria-labelledby="{prefix}-title {prefix}-description">'
        f'<title id="{prefix}-title">{html.escape(title)}</title>'
        f'<desc id="{prefix}-description">{html.escape(description)}</desc>{body}</svg>'
    )
