"""Names given to saved models, kept in one JSON file beside the cache: ``{name: {folder, key}}``."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from posttrain.core import files
from posttrain.core.errors import BadRequest, did_you_mean

Tags = dict[str, dict[str, str]]


def tags_file() -> Path:
    """Where they are kept."""
    return files.cache_folder() / "tags.json"


def read() -> Tags:
    """All tags; none if none were ever given.

    Raises:
        BadRequest: If the file has been damaged.
    """
    path = tags_file()
    if not path.exists():
        return {}
    found = files.read_json(path)
    if not isinstance(found, dict) or not all(
        isinstance(entry, dict) and {"folder", "key"} <= entry.keys() for entry in found.values()
    ):
        raise BadRequest(f"{path} isn't a file of tags.", "Mend or delete it.")
    return cast(Tags, found)


def write(tags: Tags) -> None:
    """Keep these tags, whole or not at all."""
    files.write_json(tags_file(), tags)


def find(name: str, known: Tags) -> dict[str, str]:
    """The entry of a tag.

    Raises:
        BadRequest: If there is no such tag.
    """
    if name not in known:
        raise BadRequest(
            f"There is no tag '{name}'.",
            did_you_mean(name, known) or "Give one with: posttrain models --tag NAME=FOLDER",
        )
    return known[name]
