"""guard: guards look at a data set, at what the current model answers, or at the model itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from posttrain.core.catalog import block, blocks, term_of
from posttrain.data import dataset
from posttrain.data.writing import write
from posttrain.decode.generation import generate
from posttrain.guard import ACTIONS, Findings, InspectedDataset, ModelGuard, TextGuard, inspect, inspect_dataset
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.steps.generate import hash_of_prompts, read_prompts
from posttrain.pipeline.views import View, facts, note, samples, table

RECORDS = "records.jsonl"

_PROMPTS = "builtin:prompts"


class Guard(Step):
    """Look for what must not be in data, answers or the model."""

    body: ClassVar[str | None] = "guards"
    reads: ClassVar[tuple[str, ...]] = ("data", "prompts")

    guards: blocks("guard") = Field(  # type: ignore[valid-type]
        default_factory=lambda: [{"content_filter": None}, {"personal_data": None}], min_length=1
    )
    """Who looks, as in {content_filter: {policy: ours.yaml}, personal_data: {style: mask}}."""

    data: str | None = None
    """A data set to look through; later steps may take what is left of it, redacted, by this step's name."""

    kind: str | None = None
    """Kind of its records; found out from the columns when not given."""

    columns: dict[str, str] = {}
    """Maps the names posttrain uses (prompt, completion …) to the file's own."""

    prompts: list[str] | str | None = None
    """Prompts whose answers are looked at, a list or a data set; without data or a list the built-in ones."""

    chat: bool = True
    """Ask the prompts through the chat template."""

    search: block("search") = Field(default_factory=lambda: {"greedy": {}})  # type: ignore[valid-type]
    """How the answers are drawn."""

    max_new_tokens: int = Field(64, ge=1)
    """Most tokens of an answer."""

    limit: int | None = Field(None, ge=1)
    """Use only the first so many records and prompts."""

    examples: int = Field(6, ge=0)
    """How many redacted examples the report shows."""

    @model_validator(mode="after")
    def _something_to_look_at(self) -> Guard:
        if (self.data is not None or self.prompts is not None) and not self._of_texts():
            raise ValueError("none of the guards looks at texts: leave `data` and `prompts` out")
        return self

    def _of_texts(self) -> list[TextGuard]:
        return [each for each in self.guards if isinstance(each, TextGuard)]

    def _asked(self) -> list[str] | str | None:
        """The prompts, if the model is to answer any."""
        return _PROMPTS if self.prompts is None and self.data is None and self._of_texts() else self.prompts

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of data, prompts and what the guards read; where the model answers, also of what the search reads."""
        found: dict[str, Any] = {}
        for guard in self.guards:
            found |= guard.inputs()
        if self.data is not None:
            records = self._records()
            found["data"] = {"source": records.source, "hash": records.hash}
        if (asked := self._asked()) is not None:
            found |= hash_of_prompts(asked)
        if asked is not None and (inside := self.search.inputs()):
            found["search"] = inside
        return found

    def _records(self) -> dataset.Dataset:
        assert self.data is not None
        return dataset.read(self.data, kind=self.kind, columns=self.columns, limit=self.limit)

    def run(self, context: Context) -> Outcome:
        """Look, count, and show examples without what was found in them."""
        result: dict[str, Any] = {}
        views: list[View] = []
        heads: list[str] = []
        records = None
        if self.data is not None:
            inspected = inspect_dataset(self._of_texts(), self._records())
            write(inspected.dataset.records, context.folder / RECORDS)
            records = RECORDS if inspected.dataset.records else None
            result |= _data_figures(inspected)
            views += _data_views(inspected, self.examples)
            heads.append(f"{result['found_records']} of {result['records']} records with findings")
        if (asked := self._asked()) is not None:
            figures, shown = self._answers(context, read_prompts(asked)[: self.limit])
            result |= figures
            views += shown
            heads.append(f"{figures['found_answers']} of {figures['answers']} answers with findings")
        for guard in self.guards:
            if isinstance(guard, ModelGuard):
                found = guard.inspect(context.model)
                result[term_of(guard)] = found.figures
                views += _model_views(term_of(guard), found, self.examples)
                heads.append(f"{term_of(guard)}: {len(found.findings)} findings")
        return Outcome(result, views, headline=", ".join(heads), records=records)

    def _answers(self, context: Context, prompts: Sequence[str]) -> tuple[dict[str, Any], list[View]]:
        guards = self._of_texts()
        written = generate(
            context.model,
            prompts,
            search=self.search,
            max_new_tokens=self.max_new_tokens,
            seed=context.seed,
            chat=self.chat,
        )
        found = [inspect(guards, each.text) for each in written.generations]
        categories = Counter(one.category for each in found for one in each.findings)
        actions = Counter(each.action for each in found)
        touched = sum(bool(each.findings) for each in found)
        figures = {
            "answers": len(found),
            "found_answers": touched,
            "found_answers_share": touched / len(found),
            "blocked_answers": actions["block"],
            "blocked_answers_share": actions["block"] / len(found),
            "answer_categories": dict(categories.most_common()),
        }
        rows = [
            [inspect(guards, str(each.prompt)).text, said.text, _reasons(said)]
            for each, said in zip(written.generations, found)
            if said.findings
        ]
        views = [_counts("Found in answers", categories), *_action_note(actions["block"], len(found), "answers")]
        if rows and self.examples:
            views.append(samples("Answers, redacted", ["prompt", "answer", "why"], rows[: self.examples]))
        return figures, views


def _data_figures(inspected: InspectedDataset) -> dict[str, Any]:
    actions = inspected.actions
    count = sum(actions.values())
    touched = count - actions["allow"]
    return {
        "records": count,
        "found_records": touched,
        "found_share": touched / count,
        **{f"{_DONE[action]}_records": actions[action] for action in ACTIONS[1:]},
        "blocked_share": actions["block"] / count,
        "findings": sum(inspected.categories().values()),
        "categories": inspected.categories(),
    }


_DONE = {"flag": "flagged", "redact": "redacted", "block": "blocked"}


def _data_views(inspected: InspectedDataset, examples: int) -> list[View]:
    actions = inspected.actions
    count = sum(actions.values())
    shown = {f"records {_DONE[action]}": actions[action] for action in ACTIONS[1:]}
    views = [
        facts("The data set", {"records": count, **shown}),
        _counts("Found in the data", inspected.categories()),
        *_action_note(actions["block"], count, "records"),
    ]
    rows = [[each.origin, each.findings.text, _reasons(each.findings)] for each in inspected.found[:examples]]
    if rows:
        views.append(samples("Texts, redacted", ["record", "text", "why"], rows))
    return views


def _model_views(term: str, found: Findings, examples: int) -> list[View]:
    plain = {name: value for name, value in found.figures.items() if not isinstance(value, (list, dict))}
    views = [facts(f"The model: {term}", plain)]
    rows = [[each.category, each.reason] for each in found.findings[:examples]]
    if rows:
        views.append(table(f"What {term} found", ["category", "what"], rows))
    return views


def _counts(title: str, categories: dict[str, int]) -> View:
    if not categories:
        return note(f"{title}: nothing.", "good")
    return table(title, ["category", "findings"], [[name, count] for name, count in categories.items()])


def _action_note(blocked: int, count: int, what: str) -> list[View]:
    return [note(f"{blocked} of {count} {what} are blocked.", "warning")] if blocked else []


def _reasons(found: Findings) -> str:
    return "; ".join(dict.fromkeys(f"{each.category}: {each.reason}" for each in found.findings))
