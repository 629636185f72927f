"""Versions: which models lie in a folder, and names (tags) given to some of them.

A tag is a name for one saved model, as in ``production``; `tag:production` is then a reference like any other. Tags are
kept in one JSON file beside the cache of models, written atomically. A tag remembers the model's content key, so that a
folder that has since been overwritten is not mistaken for what was tagged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core import events, files
from posttrain.core.errors import BadRequest
from posttrain.models import cards, tags
from posttrain.models.language_model import CARD_FILE
from posttrain.models.sources import aliases, resolve

# Folders that can hold no models of a run and may be large.
_SKIPPED = re.compile(r"^(\.|node_modules$|__pycache__$)")


@dataclass(frozen=True)
class Version:
    """A saved model.

    Attributes:
        folder: Where it lies.
        name: As its card has it.
        root: Reference of the model it was made from in the end.
        made_by: Recipe key of the step that made it; None for one that wasn't made here.
        created: ISO 8601; None where the card doesn't say.
        bytes: Of all its files.
        key: Content key.
        tags: Names given to it.
    """

    folder: Path
    name: str
    root: str | None
    made_by: str | None
    created: str | None
    bytes: int
    key: str
    tags: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**vars(self), "folder": str(self.folder), "tags": list(self.tags)}


def saved_models(folders: Sequence[Path]) -> list[Version]:
    """The models that lie in folders and below, the newest first; one with a damaged card is told of and left out.

    Raises:
        BadRequest: If a folder isn't there.
    """
    known = tags.read()
    found: dict[Path, Version] = {}
    for folder in folders:
        if not folder.is_dir():
            raise BadRequest(f"There is no folder {folder}.")
        for card_file in _cards(folder):
            place = card_file.parent.resolve()
            if place in found:
                continue
            try:
                found[place] = _version(card_file.parent, known)
            except BadRequest as error:
                events.message(f"Left out: {error}", level="warning")
    return sorted(found.values(), key=lambda version: version.created or "", reverse=True)


def _cards(folder: Path) -> Iterator[Path]:
    """Card files below a folder; what lies inside a model's own folder isn't looked at."""
    if (folder / CARD_FILE).is_file():
        yield folder / CARD_FILE
        return
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and not _SKIPPED.match(entry.name):
            yield from _cards(entry)


def _version(folder: Path, known: dict[str, dict[str, str]]) -> Version:
    card = cards.read(folder)
    history, key = card.get("history") or [], str(card.get("key") or "")
    place = str(folder.resolve())
    return Version(
        folder=folder,
        name=str(card.get("name") or folder.name),
        root=(card.get("root") or {}).get("reference"),
        made_by=next(iter(history[-1]["made_by"]), None) if history else None,
        created=card.get("created"),
        bytes=files.folder_bytes(folder),
        key=key,
        tags=tuple(name for name, entry in known.items() if entry["folder"] == place and entry["key"] == key),
    )


def embedded() -> list[dict[str, str]]:
    """The models that have an alias: alias and reference."""
    return [{"alias": alias, "reference": reference} for alias, reference in aliases().items()]


def tag(name: str, folder: Path) -> None:
    """Give a saved model a name; a name given before moves to it.

    Raises:
        BadRequest: If the name has other signs than letters, digits, dots and dashes, or there is no saved model.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise BadRequest(f"'{name}' can't be a tag.", "Use letters, digits, dots, dashes and underscores.")
    if not (folder / CARD_FILE).is_file():
        raise BadRequest(f"{folder} holds no saved model ({CARD_FILE} is missing).", "Give a model's own folder.")
    card = cards.read(folder)
    entry = {"folder": str(folder.resolve()), "key": str(card.get("key") or "")}
    tags.write({**tags.read(), name: entry})


def untag(name: str) -> None:
    """Forget a tag; the model stays.

    Raises:
        BadRequest: If there is no such tag.
    """
    known = tags.read()
    tags.find(name, known)
    tags.write({other: entry for other, entry in known.items() if other != name})


def read_card(reference: str) -> dict[str, Any]:
    """The card of a saved model, or what is known of one that wasn't made here; no weights are loaded.

    Args:
        reference: A folder, ``tag:NAME``, or any other reference to a model.

    Raises:
        BadRequest: If there is no such model.
    """
    if reference.startswith("tag:"):
        name = reference.removeprefix("tag:")
        return read_card(tags.find(name, tags.read())["folder"])
    folder = Path(reference).expanduser()
    if (folder / CARD_FILE).is_file():
        return cards.read(folder)
    resolve(reference)  # refuse what can't be a model
    return {"name": reference, "root": {"reference": reference}}
