"""What comes with posttrain as YAML and not as code: recipes, benchmark tasks, suites of behavioural tests, presets.

Names and summaries are read from the files alone, so that a list of them costs nothing; an explanation reads one as its
users do, and so is what they get.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.core import catalog, recipe

if TYPE_CHECKING:
    from posttrain.bench.suite import Suite, SuiteTest
    from posttrain.bench.task import Task

KINDS = ("recipe", "task", "suite", "preset")

_LAYOUT = (
    "Files lie below the folder that --data names, in it, its subfolders or theirs, compressed or not; the first place "
    "of a split that is there is read. Without --data the hub is asked."
)


def summaries(kind: str) -> dict[str, str]:
    """By name a line on each of a kind."""
    if kind == "recipe":
        return {name: _line(values.get("description", "")) for name, values in _recipes().items()}
    if kind == "preset":
        from posttrain.decode.presets import presets

        return {name: each.use for name, each in presets().items()}
    folder = catalog.family_folder("task_type").parent / f"{kind}s"
    return {file.stem: _line(recipe.read(file)["summary"]) for file in sorted(folder.glob("*.yaml"))}


def explained(kind: str, name: str) -> dict[str, Any]:
    """One of a kind in full, JSON-able: `family`, `term`, `summary`, and what its kind has to say.

    Args:
        kind: One of `KINDS`.
        name: Its name, for a task also a member's or category's; or the path of a file of one's own.

    Raises:
        BadRequest: If there is none of this name, or the file isn't right.
    """
    found = {"recipe": _recipe, "task": _task, "suite": _suite, "preset": _preset}[kind](name)
    return {"family": kind, "term": name, **found}


def _recipes() -> dict[str, dict[str, Any]]:
    from posttrain.pipeline.run import SHIPPED, shipped_recipes

    return {name: recipe.read(SHIPPED / f"{name}.yaml") for name in shipped_recipes()}


def _recipe(name: str) -> dict[str, Any]:
    from posttrain.pipeline.run import read_recipe

    frame = recipe.Recipe.parse({key: value for key, value in read_recipe(name).items() if key != "fast"})
    verbs = [verb for step in frame.steps for verb in step]
    return {"summary": _line(frame.description), "model": frame.model, "steps": verbs}


def _preset(name: str) -> dict[str, Any]:
    from posttrain.decode.presets import preset

    found = preset(name)
    return {
        "summary": found.use,
        "usual_temperatures": list(found.range) if found.range else None,
        "search": found.search,
        **({"process": found.process} if found.process else {}),
    }


def _task(name: str) -> dict[str, Any]:
    from posttrain.bench.task import find

    selection = find(name)
    task, examples = selection.task, selection.task.examples
    given = selection.type.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {
        "summary": _line(task.summary),
        "version": task.version,
        "license": task.license,
        "homepage": task.homepage,
        "file": str(selection.file),
        "type": catalog.term_of(selection.type),
        "asked": given,
        "split": task.split,
        "examples": None if examples is None else {"number": examples.number, "from": examples.splits or "this file"},
        "score": task.metrics[0],
        "metrics": list(_metrics(task)),
        **({"counts_in": _line(task.counts_in)} if task.counts_in else {}),
        "data": [
            {"split": split, "files": place.files, "hub": place.hub}
            for split, places in task.data.items()
            for place in places
        ],
        "layout": _LAYOUT,
        **({"members": selection.members} if selection.members else {}),
        **({"further_members": True} if task.further_members else {}),
    }


def _metrics(task: Task) -> Iterator[dict[str, Any]]:
    """A row for each metric of a task, its score first."""
    for name in task.metrics:
        row = {"metric": name, "of": "each item", "how": f"see posttrain explain {catalog.term_of(task.type)}"}
        if name in task.item_metrics:
            row["how"] = _line(task.item_metrics[name])
        elif name in task.corpus_metrics:
            row |= {"of": "all items together", "how": _block(task.corpus_metrics[name])}
        elif name in task.group_metrics:
            metric = task.group_metrics[name]
            row |= {"of": "groups of items", "how": f"{metric.take} of {_line(metric.of)} by {_line(metric.by)}"}
        yield {**row, "better": "lower" if name in task.lower_better else "higher"}


def _suite(name: str) -> dict[str, Any]:
    from posttrain.bench.suite import find

    file, suite = find(name)
    return {
        "summary": _line(suite.summary),
        "version": suite.version,
        "file": str(file),
        "labels": {label: list(others) for label, others in suite.labels.items()},
        "lexicons": {lexicon: len(words) for lexicon, words in suite.lexicons.items()},
        "tests": [_test(suite, test, file) for test in suite.tests],
    }


def _test(suite: Suite, test: SuiteTest, file: Path) -> dict[str, Any]:
    """A row for a test, with the first case that is drawn."""
    from posttrain.bench.suite import draw

    (case,) = draw(suite, test, str(file), most=1).cases
    asked = test.ask or suite.ask
    wanted = f"the answer {case.expected}" if case.expected is not None else "the same answer"
    if test.moves is not None:
        by = f" by {test.moves.by:g}" if test.moves.by else ""
        wanted = f"{test.moves.label} goes {test.moves.to}{by}"
    return {
        "test": test.name,
        "capability": test.capability,
        "kind": test.kind,
        "cases": test.samples,
        "for": "classifiers" if asked is None else "models that write" if asked.write else "models that choose",
        "for_example": " → ".join(case.texts[:2]),
        "wanted": wanted,
    }


def _block(method: Any) -> str:
    """A method with what was set of it, as a recipe writes it in one line."""
    told = method.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return f"{catalog.term_of(method)} {json.dumps(told, ensure_ascii=False)}" if told else catalog.term_of(method)


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def show(entry: dict[str, Any]) -> None:
    """Print an explanation for people."""
    from rich.text import Text

    from posttrain.cli.presentation import present, table_of, write

    write(
        Text.assemble((entry["term"], "bold cyan"), (f"  {entry['family']}", "dim")), Text(f"  {entry['summary']}"), ""
    )
    rows = {"metrics": entry.get("metrics"), "data": _told_data(entry.get("data", ())), "tests": entry.get("tests")}
    rest = {key: value for key, value in entry.items() if key not in ("family", "term", "summary", "layout", *rows)}
    present({key: _told(value) for key, value in rest.items() if value not in (None, {}, [])})
    for title, table in rows.items():
        if table:
            write("", Text(title, "bold"), table_of(table))
    if "layout" in entry:
        write("", Text(entry["layout"], "dim"))
    write("")


def _told(value: Any) -> Any:
    """Mappings are sections of their own; what is in them is text, and so are lists."""
    if isinstance(value, dict):
        return {key: _text(each) for key, each in value.items()}
    return _text(value) if isinstance(value, list) else value


def _text(value: Any) -> Any:
    """A list as its elements, in JSON where these are no plain words; a mapping in JSON."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        plain = all(isinstance(each, str) and each == _line(each) and each for each in value)
        return ", ".join(value) if plain else ", ".join(json.dumps(each, ensure_ascii=False) for each in value)
    return value


def _told_data(places: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**place, "files": ", ".join(place["files"]), "hub": place["hub"] or ""} for place in places]
