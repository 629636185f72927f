"""Questions and answers with a label, good or bad, made of the built-in preference pairs."""

import json
from pathlib import Path

from posttrain.data import dataset


def labelled(name: str, folder: Path) -> Path:
    """Write a file of records with `text`, `text_pair` and `label`.

    Args:
        name: Preference pairs, for example builtin:preferences.
        folder: Where the file goes.
    """
    rows = []
    for pair in dataset.read(name):
        rows.append({"text": pair.prompt, "text_pair": pair.chosen, "label": "good"})
        rows.append({"text": pair.prompt, "text_pair": pair.rejected, "label": "bad"})
    path = folder / f"{name.removeprefix('builtin:')}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
