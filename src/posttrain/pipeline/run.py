"""Running a recipe: steps in order, each skipped when nothing that goes into it has changed, resumed where it stopped.

Layout of a run's folder: ``recipe.yaml``, ``summary.json``, ``report.html``, ``events.jsonl`` and one folder a step
under ``steps/`` with its result, its model if it made one, and its checkpoint while it is at work. A step counts as
done when its ``result.json`` is there with the key of what goes into it; everything is written atomically, so kill -9
at any moment loses at most the work since the last checkpoint.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from posttrain import __version__
from posttrain.core import catalog, energy, events, files, recipe, runtime
from posttrain.core.errors import BadRequest, Failure, did_you_mean
from posttrain.core.settings import fingerprint
from posttrain.models.language_model import CARD_FILE, LanguageModel
from posttrain.models.sources import load, resolve
from posttrain.pipeline.report import write_report
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.registry.model_card import model_card
from posttrain.registry.provenance import knowledge_cutoff, new_card

SHIPPED = Path(__file__).resolve().parents[1] / "recipes"
RUNS = Path("runs")


@dataclass
class Slot:
    """A model of the run: where to load it from and the key of what it is."""

    reference: str
    key: str


@dataclass
class Entry:
    """A parsed step of the recipe."""

    name: str
    verb: str
    step: Step


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_recipe(reference: str | Path) -> dict[str, Any]:
    """A recipe by the path of its file or by the name of a shipped one."""
    path = Path(reference)
    if not path.exists():
        if str(reference) in shipped_recipes():
            return recipe.read(SHIPPED / f"{reference}.yaml")
        if not path.suffix:
            raise BadRequest(f"There is no recipe '{reference}'.", did_you_mean(str(reference), shipped_recipes()))
    return recipe.read(path)


def run_recipe(
    source: dict[str, Any] | Path | str | None = None,
    *,
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    fast: bool = False,
) -> dict[str, Any]:
    """Run a recipe.

    Args:
        source: A recipe, its file, or a shipped one's name; None only with `resume`, which takes the one in `out`.
        out: The run's folder; ``runs/NAME`` when not given (with `resume` the newest run).
        overrides: ``path=value`` settings, as on the command line.
        resume: Continue the run in `out`; an error if there is none.
        fast: Apply the recipe's own `fast` settings.

    Returns:
        The summary that also stands in ``summary.json``: name, model, seed, seconds, machine, steps, lineage, report.

    Raises:
        BadRequest: If the recipe or a setting of it is wrong; nothing has been loaded or written then.
        Failure: If a step says that the run has failed; its record and the report are written.
    """
    if source is None:
        folder = _run_to_resume(out)
        values = recipe.read(folder / "recipe.yaml")
    else:
        values = dict(source) if isinstance(source, dict) else read_recipe(source)
        folder = Path(out) if out else RUNS / _folder_name(values.get("name", "recipe"))
        if resume and not (folder / "recipe.yaml").exists():
            raise BadRequest(f"There is no run to resume in {folder}.", "Leave --resume out to start one.")
    quick = values.pop("fast", {}) or {}
    if not isinstance(quick, dict):
        raise BadRequest(f"'fast' expects `path: value` settings, not {quick!r}.", "For example {train.steps: 10}.")
    if fast:
        overrides = [*(f"{key}={json.dumps(value)}" for key, value in quick.items()), *overrides]
    values = recipe.apply_overrides(values, overrides)
    frame = recipe.Recipe.parse(values, "")
    entries = parse_steps(frame.steps)
    resolve(frame.model)
    refuse_foreign_folder(folder, "recipe.yaml", "run")
    files.write_text(folder / "recipe.yaml", recipe.dump(values))
    return _Run(frame, entries, folder, values).go()


def _folder_name(name: Any) -> str:
    """The name of a recipe as that of its run's folder."""
    if str(name) in ("", ".", "..") or Path(str(name)).name != str(name):
        raise BadRequest(f"A run's folder can't be called {str(name)!r} as the recipe is.", "Name a folder with --out.")
    return str(name)


def _run_to_resume(out: Path | str | None) -> Path:
    if out is not None:
        if not (Path(out) / "recipe.yaml").exists():
            raise BadRequest(f"There is no run to resume in {out}.", "Give the folder of a run with --out.")
        return Path(out)
    runs = sorted(
        RUNS.glob("*/recipe.yaml"),
        key=lambda p: (p.parent / "steps").stat().st_mtime if (p.parent / "steps").exists() else 0.0,
    )
    if not runs:
        raise BadRequest(f"There is no run to resume under {RUNS}.", "Give the folder of a run with --out.")
    return runs[-1].parent


def refuse_foreign_folder(folder: Path, marker: str, what: str) -> None:
    """Refuse to write into a folder that holds somebody's files: one with visible files but without `marker`."""
    if folder.exists() and not folder.is_dir():
        raise BadRequest(f"{folder} is a file, not a folder.", "Choose another --out.")
    if folder.is_dir() and not (folder / marker).exists():
        foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if foreign:
            raise BadRequest(f"{folder} holds files that aren't a {what}'s ({foreign[0]}).", "Choose another --out.")


def parse_steps(steps: Sequence[dict[str, Any]]) -> list[Entry]:
    """Validate a recipe's steps and name them.

    Raises:
        BadRequest: On an unknown verb, key or model name, or a name used twice.
    """
    entries: list[Entry] = []
    models = {"base"}
    taken: set[str] = set()
    for position, item in enumerate(steps):
        if not isinstance(item, dict) or len(item) != 1:
            raise BadRequest(f"steps[{position}] must be one `verb: settings`, not {item!r}.")
        ((verb, body),) = item.items()
        step: Step = catalog.find("step", str(verb)).parse(body, f"steps[{position}].{verb}")
        name = step.name or _free_name(str(verb), taken)
        if name in taken or name == "base":
            raise BadRequest(f"steps[{position}]: the name '{name}' is taken.", "Give the step another `name`.")
        taken.add(name)
        if step.source is not None and step.source not in models:
            raise BadRequest(
                f"steps[{position}].{verb}.from: there is no earlier step '{step.source}'.",
                f"Known: {', '.join(sorted(models))}.",
            )
        for other in step.others():
            if other not in models:
                raise BadRequest(
                    f"steps[{position}].{verb}: there is no earlier step '{other}'.", did_you_mean(other, models)
                )
        models.add(name)
        entries.append(Entry(name, str(verb), step))
    if not entries:
        raise BadRequest("The recipe has no steps.")
    return entries


def _free_name(verb: str, taken: set[str]) -> str:
    number = 2
    name = verb
    while name in taken:
        name, number = f"{verb}-{number}", number + 1
    return name


class _Run:
    """One pass over a recipe's steps."""

    def __init__(self, frame: recipe.Recipe, entries: list[Entry], out: Path, values: dict[str, Any]) -> None:
        self.frame, self.entries, self.out, self.values = frame, entries, out, values
        self.slots = {"base": Slot(frame.model, base_key(frame.model, frame.dtype))}
        self.latest = "base"
        self.live: tuple[str, LanguageModel] | None = None
        self.results: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {"base": self.slots["base"].key}
        self.files: dict[str, Path] = {}
        self.records: list[dict[str, Any]] = []
        self.started = datetime.now(UTC).isoformat(timespec="seconds")

    def go(self) -> dict[str, Any]:
        """All steps; the summary is written after each, the report also when one fails."""
        runtime.device(self.frame.device)  # refuse a missing device before any work
        energy.carbon_intensity(self.frame.region)  # and an unknown country
        start = time.perf_counter()
        files.remove_leftovers(self.out)
        with _event_log(self.out / "events.jsonl"):
            try:
                for number, entry in enumerate(self.entries):
                    self.records.append(self._step(number, entry))
                    files.write_json(self.out / "summary.json", self._summary(time.perf_counter() - start))
                    if failure := self.records[-1].get("failure"):
                        raise Failure(failure, f"The report is {self.out / 'report.html'}.")
            finally:
                summary = self._summary(time.perf_counter() - start)
                files.write_json(self.out / "summary.json", summary)
                write_report(summary, self.out / "report.html")
        return summary

    def _step(self, number: int, entry: Entry) -> dict[str, Any]:
        folder = self.out / "steps" / f"{number + 1:02d}-{entry.name}"
        source = entry.step.source or self.latest
        context = Context(
            load=self._load,
            folder=folder,
            seed=self.frame.seed,
            model_name=source,
            results=dict(self.results),
            keys=dict(self.keys),
            current=lambda: self._current(source),
            references={name: slot.reference for name, slot in self.slots.items()},
        )
        step = entry.step.located(self.files, context.references)
        inputs = self._named(step.inputs(context))
        key = self._key(entry, source, inputs)
        record = _finished(folder, key)
        if record is not None:
            events.message(f"{entry.name}: unchanged, taken from the last run.")
        else:
            clean_unless(folder, key)
            record = self._work(entry, step, context, key, inputs)
        self.results[entry.name] = record["result"]
        self.keys[entry.name] = key
        if record.get("records"):
            self.files[entry.name] = folder / record["records"]
        # A step that made no model passes on the one it looked at, under its own name too.
        self.slots[entry.name] = Slot(str(folder / "model"), key) if record["model"] else self.slots[source]
        if record["model"]:
            self.latest = entry.name
        return record

    def _named(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Inputs with the names of earlier steps for the files these left: where a run lies means nothing."""
        names = {str(path): name for name, path in self.files.items()}
        return {
            key: {**value, "source": names[value["source"]]}
            if isinstance(value, dict) and value.get("source") in names
            else value
            for key, value in inputs.items()
        }

    def _key(self, entry: Entry, source: str, inputs: dict[str, Any]) -> str:
        settings = entry.step.model_dump(mode="json", by_alias=True, exclude={"name", "title"})
        parts = [entry.verb, settings, self.slots[source].key, self.frame.seed, inputs, __version__]
        return fingerprint(parts)

    def _work(self, entry: Entry, step: Step, context: Context, key: str, inputs: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        events.emit("message", f"step {entry.name}", level="step")
        runtime.seed_everything(self.frame.seed)
        with energy.Meter(self.frame.region) as meter:
            outcome = step.run(context)
            spent = meter.read().to_dict()
        if outcome.model is not None:
            made_by = {entry.verb: entry.step.model_dump(mode="json", by_alias=True, exclude_none=True)}
            save_model(outcome, context.folder / "model", entry.name, made_by, inputs, self.frame.seed, key, spent)
            self.live = (entry.name, outcome.model)
        record = {
            "key": key,
            "name": entry.name,
            "verb": entry.verb,
            "title": entry.step.title or entry.name,
            "summary": " ".join((type(entry.step).__doc__ or "").split()),
            "source": context.model_name,
            "inputs": inputs,
            "seconds": time.perf_counter() - start,
            "energy": spent,
            "knowledge_cutoff": knowledge_cutoff(self.live[1]) if self.live is not None else None,
            "skipped": False,
            "model": entry.name if outcome.model is not None else None,
            "records": outcome.records,
            "headline": outcome.headline,
            "result": outcome.result,
            "views": outcome.views,
            "failure": outcome.failure,
        }
        files.write_json(context.folder / "result.json", record)
        shutil.rmtree(context.folder / "checkpoint", ignore_errors=True)
        return files.jsonable(record)

    def _current(self, name: str) -> LanguageModel:
        """The model in memory if it is the one wanted, else loaded; a step that made none stands for its source."""
        slot = self.slots[name]
        if self.live is None or self.slots[self.live[0]].key != slot.key:
            self.live = None  # let go of the old one before loading
            self.live = (name, self._load(name))
        return self.live[1]

    def _load(self, name: str) -> LanguageModel:
        if name not in self.slots:
            raise BadRequest(f"There is no model '{name}' in this run.", f"Known: {', '.join(self.slots)}.")
        model = load(self.slots[name].reference, device=self.frame.device, dtype=self.frame.dtype)
        if self.frame.knowledge_cutoff is not None:
            model.card["knowledge_cutoff"] = self.frame.knowledge_cutoff
        return model

    def _summary(self, seconds: float) -> dict[str, Any]:
        failures = [record["failure"] for record in self.records if record.get("failure")]
        return {
            "name": self.frame.name,
            "description": self.frame.description,
            "model": self.frame.model,
            "seed": self.frame.seed,
            "started": self.started,
            "seconds": seconds,
            "machine": runtime.machine(),
            "energy": energy.total(each["energy"] for each in self.records if each.get("energy")),
            "knowledge_cutoff": next((c for r in reversed(self.records) if (c := r.get("knowledge_cutoff"))), None),
            "warnings": failures,
            "steps": self.records,
            "lineage": self._lineage(),
            "recipe": recipe.dump(self.values),
            "out": str(self.out),
            "report": str(self.out / "report.html"),
            "finished": len(self.records) == len(self.entries) and not failures,
        }

    def _lineage(self) -> dict[str, list[Any]]:
        nodes = [{"id": "base", "label": self.frame.model, "kind": "model", "detail": "the model to start from"}]
        edges: list[list[str]] = []
        owner = {"base": "base"}
        makers = {record["key"]: record["name"] for record in self.records if record["model"]}
        for record in self.records:
            owner[record["name"]] = record["name"] if record["model"] else owner[record["source"]]
            if not record["model"]:
                continue
            nodes.append({"id": record["name"], "label": record["name"], "kind": "model", "detail": record["verb"]})
            edges.append([owner[record["source"]], record["name"], record["verb"]])
            data = record["inputs"].get("data")
            if isinstance(data, dict):
                node = f"data:{data['source']}"
                if node not in {n["id"] for n in nodes}:
                    nodes.append({"id": node, "label": data["source"], "kind": "data", "detail": data["hash"][:12]})
                edges.append([node, record["name"], "data"])
            # What went in as a model (a reward, a teacher) stands among the inputs by its key.
            for use, value in record["inputs"].items():
                if isinstance(value, str) and value in makers and makers[value] != record["name"]:
                    edges.append([makers[value], record["name"], use])
        return {"nodes": nodes, "edges": edges}


def base_key(reference: str, dtype: str) -> str:
    """Key of a recipe's own model: the reference, and for local files also size and time of change."""
    path = Path(reference.partition(":")[2] or reference) if ":" in reference else Path(reference)
    stamp = []
    if path.exists():
        found = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.json")) if path.is_dir() else [path]
        stamp = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in found]
    return fingerprint([reference, dtype, stamp])


def save_model(
    outcome: Outcome,
    folder: Path,
    name: str,
    made_by: dict[str, Any],
    inputs: dict[str, Any],
    seed: int,
    key: str = "",
    spent: dict[str, Any] | None = None,
) -> None:
    """Write an outcome's model with its card, whole or not at all."""
    model = outcome.model
    assert model is not None and outcome.save is not None
    model.card = new_card(model, name=name, made_by=made_by, inputs=inputs, seed=seed, key=key, energy=spent)
    with files.atomic_folder(folder) as temporary:
        outcome.save(temporary)
        if not (temporary / CARD_FILE).exists():  # an adapter alone
            model.tokenizer.save_pretrained(temporary)
            files.write_json(temporary / CARD_FILE, model.card)
        files.write_text(temporary / "README.md", model_card(model.card))
    if model.adapter is None:
        model.reference = str(folder.resolve())  # from now on this is what an adapter on top of it refers to
    model.folder = folder


def _finished(folder: Path, key: str) -> dict[str, Any] | None:
    """The record of a finished step with this key; None if it isn't there or what it left is gone."""
    path = folder / "result.json"
    if not path.exists():
        return None
    record: dict[str, Any] = files.read_json(path)
    if record.get("key") != key or (record.get("model") and not (folder / "model" / CARD_FILE).exists()):
        return None
    if record.get("records") and not (folder / record["records"]).exists():
        return None
    return {**record, "skipped": True}


def clean_unless(folder: Path, key: str) -> None:
    """Empty a step's folder unless what lies there is an interrupted attempt at the same work."""
    marker = folder / "key"
    if folder.exists() and not (marker.exists() and marker.read_text(encoding="utf-8") == key):
        shutil.rmtree(folder)
    if folder.exists():
        files.remove_leftovers(folder)
        (folder / "result.json").unlink(missing_ok=True)
    files.write_text(marker, key)


@contextmanager
def _event_log(path: Path) -> Iterator[None]:
    """Append every event to a JSON-lines file; progress at most once a second a task."""
    last: dict[str, float] = {}
    with files.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as log:

            def write(event: events.Event) -> None:
                if event.kind == "advance":
                    if event.time - last.get(event.name, 0) < 1:
                        return
                    last[event.name] = event.time
                line = {"time": event.time, "kind": event.kind, "name": event.name, **event.fields}
                log.write(json.dumps(files.jsonable(line), ensure_ascii=False) + "\n")
                log.flush()

            with events.listen(write):
                yield
