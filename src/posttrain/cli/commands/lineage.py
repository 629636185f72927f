"""What a model was made from: every step with its methods, data and seed, printed or drawn.

MODEL is a saved model's folder, tag:NAME, or a run's folder, which shows all models of the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest


def add_arguments(parser: Parser) -> None:
    """Model, and where to draw."""
    parser.add_argument("model", help="a saved model's folder, tag:NAME, or a run's folder")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also draw it into an SVG file")


def run(request: Request) -> dict[str, Any]:
    """`nodes` (id, label, kind, detail) and `edges` (from, to, label); `svg` where it was drawn."""
    from posttrain.core import files
    from posttrain.pipeline.lineage_drawing import lineage_drawing, standalone
    from posttrain.registry.provenance import lineage
    from posttrain.registry.versions import read_card

    options = request.options
    summary = Path(options.model) / "summary.json"
    found = _of_run(files.read_json(summary), summary) if summary.is_file() else lineage(read_card(options.model))
    if options.svg is None:
        return found
    if options.svg.is_dir():
        raise BadRequest(f"{options.svg} is a folder.", "Give a file's name, as in lineage.svg.")
    files.write_text(options.svg, standalone(lineage_drawing(found)))
    return {**found, "svg": str(options.svg)}


def _of_run(values: Any, summary: Path) -> dict[str, Any]:
    found = values.get("lineage") if isinstance(values, dict) else None
    if not isinstance(found, dict) or not found.keys() >= {"nodes", "edges"}:
        raise BadRequest(f"{summary} isn't the summary of a run.", "Give a run's folder or a saved model's.")
    return found


def show(result: dict[str, Any]) -> None:
    """A tree: under each model what was made from it, and the data that went in."""
    from rich.text import Text
    from rich.tree import Tree

    from posttrain.cli.presentation import write

    nodes = {node["id"]: node for node in result["nodes"]}
    data: dict[str, list[str]] = {}
    children: dict[str, list[tuple[str, str]]] = {}
    for start, end, label in result["edges"]:
        if nodes[start]["kind"] == "data":
            data.setdefault(end, []).append(f"{label} {nodes[start]['label']}")
        else:
            children.setdefault(start, []).append((end, label))

    shown: set[str] = set()

    def grow(name: str, how: str) -> Tree:
        node = nodes[name]
        text = Text(node["label"], "bold").append(f"  {how}" if how else "", "cyan")
        if name in shown:  # it has two parents: its own descendants stand under the first
            return Tree(text.append("  (see above)", "dim"))
        shown.add(name)
        if name in data:
            text.append(f"  {', '.join(data[name])}", "dim")
        tree = Tree(text)
        for child, label in children.get(name, []):
            tree.children.append(grow(child, label))
        return tree

    ends = {end for _, end, _ in result["edges"]}
    write(*(grow(name, "") for name, node in nodes.items() if node["kind"] != "data" and name not in ends))
    if "svg" in result:
        write("", f"Drawn: {result['svg']}")
