"""Precision and recall of the text guards with their shipped settings, on public sets.

    python benchmarks/guard.py --data DIR [--model CLASSIFIER]

What is found below DIR (also with .gz) is used: HateCheck's ``test_suite_cases.csv`` (Röttger et al., 2021; hateful and
not), AdvBench's ``harmful_behaviors.csv`` (Zou et al., 2023) and CatQA's ``catqa_english.json`` (Bhardwaj et al., 2024)
as harmful requests of many kinds, ``alpaca_en_demo.json`` as harmless ones, and Presidio's ``synth_dataset_v2.json``
with the places of personal data. A text is found if the content filter flags, redacts or blocks it; a span of personal
data if what was found overlaps it in a kind that means the same. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from posttrain import __version__
from posttrain.guard.content_filter import ContentFilter
from posttrain.guard.personal_data import PersonalData

# Presidio's names for what is looked for -> ours.
KINDS = {
    "EMAIL_ADDRESS": {"email"},
    "PHONE_NUMBER": {"phone"},
    "CREDIT_CARD": {"credit_card"},
    "IBAN_CODE": {"iban"},
    "IP_ADDRESS": {"ip_address"},
    "US_SSN": {"ssn"},
}


# The categories that a set is about; all of them where it isn't named.
OF_SETS = {"hatecheck": {"hate"}}


def read(folder: Path, name: str) -> str | None:
    """A file anywhere below the folder, perhaps packed; None if there is none."""
    for path in [*sorted(folder.rglob(name)), *sorted(folder.rglob(f"{name}.gz"))]:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    return None


def scores(hits: int, found: int, real: int) -> dict[str, Any]:
    """Precision and recall with their counts."""
    return {
        "precision": hits / found if found else None,
        "recall": hits / real if real else None,
        "found": found,
        "real": real,
    }


def texts_of(value: Any) -> Iterable[str]:
    """All texts in nested JSON."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts_of(inner)


def harmful_texts(folder: Path) -> dict[str, list[tuple[str, bool]]]:
    """Texts by set, each with whether it is harmful."""
    sets: dict[str, list[tuple[str, bool]]] = {}
    if text := read(folder, "test_suite_cases.csv"):
        rows = csv.DictReader(io.StringIO(text))
        sets["hatecheck"] = [(row["test_case"], row["label_gold"] == "hateful") for row in rows]
    requests: list[tuple[str, bool]] = []
    if text := read(folder, "harmful_behaviors.csv"):
        requests += [((row.get("goal") or row["Goal"]), True) for row in csv.DictReader(io.StringIO(text))]
    if text := read(folder, "catqa_english.json"):
        requests += [(each, True) for each in texts_of(json.loads(text))]
    if text := read(folder, "alpaca_en_demo.json"):
        requests += [(f"{row['instruction']} {row.get('input', '')}".strip(), False) for row in json.loads(text)]
    if requests:
        sets["requests"] = requests
    return sets


def personal(text: str) -> dict[str, Any]:
    """Scores over Presidio's spans, all kinds together and each."""
    guard = PersonalData(regions=["US", "GB"], countries=["us", "gb"])
    counts = {name: [0, 0, 0] for name in KINDS}  # hits, found, real
    for row in json.loads(text):
        found = guard.find(row["full_text"])
        for name, ours in KINDS.items():
            spans = [(s["start_position"], s["end_position"]) for s in row["spans"] if s["entity_type"] == name]
            mine = [(f.start, f.end) for f in found if f.category in ours]
            counts[name][2] += len(spans)
            counts[name][1] += len(mine)
            counts[name][0] += sum(any(a < d and c < b for a, b in mine) for c, d in spans)
    total = [sum(each[place] for each in counts.values()) for place in range(3)]
    return {**scores(*total), "kinds": {name: scores(*each) for name, each in counts.items()}}


def main() -> None:
    """Score what is there, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder that holds the sets")
    parser.add_argument("--policy", default="default")
    parser.add_argument("--model", help="a classifier for the policy's labels")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "guard", "posttrain": __version__, "policy": arguments.policy}
    guard = ContentFilter(policy=arguments.policy, model=arguments.model)
    start = time.perf_counter()
    for name, rows in harmful_texts(arguments.data).items():
        wanted = OF_SETS.get(name)
        said = [
            (any(wanted is None or each.category in wanted for each in guard.find(text)), harmful)
            for text, harmful in rows
        ]
        hits = sum(found and harmful for found, harmful in said)
        result[name] = scores(hits, sum(found for found, _ in said), sum(harmful for _, harmful in said))
        result[name]["texts"] = len(rows)
    if text := read(arguments.data, "synth_dataset_v2.json"):
        result["personal_data"] = personal(text)
    result["seconds"] = time.perf_counter() - start
    print(json.dumps(result))


if __name__ == "__main__":
    main()
