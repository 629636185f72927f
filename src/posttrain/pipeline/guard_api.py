"""The Python API for guards: texts, and whole data sets. Guards that try a model belong into a recipe's step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.core import catalog, files
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.writing import write
from posttrain.guard import Findings, TextGuard, inspect, inspect_dataset


def guard(
    texts: str | Sequence[str],
    guards: Any = None,
    *,
    policy: str | Path | None = None,
    where: str | None = None,
) -> list[Findings]:
    """Look for what must not be in texts, and redact it.

        >>> found = posttrain.guard(["Mail jane.doe@example.org, please."])
        >>> found[0].action, found[0].text
        ('redact', 'Mail [EMAIL], please.')

    Args:
        texts: A text or several.
        guards: Who looks: a name, a block, or a list or mapping of them; those of a recipe's step when not given.
        policy: A policy file, for the guards that take one.
        where: The side of a model the texts are on, ``"input"`` or ``"output"``, for the guards that ask.

    Returns:
        For each text its `action`, the redacted `text`, and `findings` with their places and reasons.

    Raises:
        BadRequest: If a guard, its settings or its files aren't right, or a guard looks at models.
    """
    looking = text_guards(guards, policy=policy, where=where)
    return [inspect(looking, text) for text in ([texts] if isinstance(texts, str) else texts)]


def guard_data(
    data: str | Path,
    out: str | Path | None = None,
    guards: Any = None,
    *,
    policy: str | Path | None = None,
    where: str | None = None,
) -> dict[str, Any]:
    """Look through a data set, and keep its records redacted, without those that are blocked.

        >>> posttrain.guard_data("chats.jsonl", "clean.jsonl", "personal_data")["actions"]
        {'allow': 118, 'flag': 0, 'redact': 9, 'block': 0}

    Args:
        data: The data set.
        out: The file for what is left of it, as JSON Lines.
        guards: See `guard`.
        policy: See `guard`.
        where: See `guard`.

    Returns:
        `records`, how many had which `actions`, findings by `categories`, and `out`.

    Raises:
        BadRequest: As `guard`, or if the data can't be read or `out` is the data itself.
    """
    if out is not None:
        files.refuse_unwritable(out)
        if Path(data).exists() and Path(out).exists() and Path(data).samefile(out):
            raise BadRequest(f"{out} is the data itself, and would be replaced.", "Write to another file.")
    found = inspect_dataset(text_guards(guards, policy=policy, where=where), dataset.read(str(data)))
    if out is not None:
        write(found.dataset.records, out)
    return {
        "records": sum(found.actions.values()),
        "actions": found.actions,
        "categories": found.categories(),
        "out": str(out) if out is not None else None,
    }


def text_guards(guards: Any = None, *, policy: str | Path | None = None, where: str | None = None) -> list[TextGuard]:
    """The guards that blocks stand for, with what they read checked.

    Args:
        guards: See `guard`.
        policy: See `guard`; a block's own setting wins.
        where: The same.

    Raises:
        BadRequest: See `guard`.
    """
    if guards is None:
        guards = catalog.find("step", "guard").model_fields["guards"].get_default(call_default_factory=True)
    if isinstance(guards, dict):
        guards = [{term: settings} for term, settings in guards.items()]
    blocks = guards if isinstance(guards, (list, tuple)) else [guards]
    given = {key: str(value) for key, value in (("policy", policy), ("where", where)) if value is not None}
    found: list[TextGuard] = []
    for block in blocks:
        built = catalog.build("guard", _with(given, block))
        if not isinstance(built, TextGuard):
            raise BadRequest(
                f"{catalog.term_of(built)} looks at models, not at texts.", "Use it in a recipe's `guard` step."
            )
        built.inputs()  # a missing policy is refused before any text is read
        found.append(built)
    if not found:
        raise BadRequest("There is no guard to look.", "Name at least one.")
    return found


def _with(given: dict[str, str], block: Any) -> Any:
    """A block with what its method takes of some settings."""
    block = {block: None} if isinstance(block, str) else block
    if not isinstance(block, dict) or len(block) != 1:
        return block
    ((term, settings),) = block.items()
    if not (settings is None or isinstance(settings, dict)):
        return block
    fields = catalog.find("guard", term).model_fields
    return {term: {**{key: value for key, value in given.items() if key in fields}, **(settings or {})}}
