"""ROUGE beside Google's rouge-score: the same pairs of texts in one process, one after the other.

    python benchmarks/rouge.py
    python benchmarks/rouge.py --data FOLDER

Pairs are of 60 words from the built-in prose, half of the reference's in the prediction, ROUGE-1, 2, L and Lsum with
stemming; no stem is known when either begins. With `--data` also Google's own test cases, the values of ROUGE-1.5.5:
an ``expected.json`` with `cases` of metric, stem, target, prediction, recall, precision and f. Prints one JSON line:
pairs a second of both, their ratio, the largest difference of any number, and how many test cases agree. Needs
rouge-score (``pip install rouge-score``).
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rouge_score import rouge_scorer

from posttrain.core.runtime import machine
from posttrain.data import dataset
from posttrain.measure.rouge import Words, rouge
from posttrain.ops.porter import stem

VARIANTS = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
WORDS = 60


def pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """Predictions and references."""
    vocabulary = str(dataset.read("builtin:prose").records[0].text).split()  # type: ignore[union-attr]
    generator = random.Random(seed)
    found = []
    for _ in range(count):
        start = generator.randrange(len(vocabulary) - WORDS)
        reference = vocabulary[start : start + WORDS]
        kept = [word if generator.random() < 0.5 else generator.choice(vocabulary) for word in reference]
        found.append((" ".join(kept), " ".join(reference)))
    return found


def ours(given: list[tuple[str, str]]) -> tuple[float, list[list[tuple[float, float, float]]]]:
    """Seconds, and the numbers."""
    stem.cache_clear()
    start = time.perf_counter()
    found = [rouge(Words(prediction, True), Words(reference, True), VARIANTS) for prediction, reference in given]
    return time.perf_counter() - start, found


def theirs(given: list[tuple[str, str]]) -> tuple[float, list[list[tuple[float, float, float]]]]:
    """Seconds, and the numbers."""
    scorer = rouge_scorer.RougeScorer(VARIANTS, use_stemmer=True)
    start = time.perf_counter()
    scores = [scorer.score(reference, prediction) for prediction, reference in given]
    seconds = time.perf_counter() - start
    return seconds, [[tuple(score[variant]) for variant in VARIANTS] for score in scores]


def google_cases(folder: Path) -> dict[str, int]:
    """How many of Google's cases our numbers agree with, to the digits they are given in."""
    cases: list[dict[str, Any]] = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["cases"]
    agree = 0
    for case in cases:
        texts = (Words(case[key], case["stem"]) for key in ("prediction", "target"))
        ((precision, recall, f1),) = rouge(*texts, [case["metric"]])
        wanted = (case["precision"], case["recall"], case["f"])
        agree += all(abs(a - b) < 6e-6 for a, b in zip((precision, recall, f1), wanted))
    return {"cases": len(cases), "agree": agree}


def main() -> None:
    """Run both in turns and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder with Google's test cases")
    arguments = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    difference, times = 0.0, []
    for number in range(arguments.rounds):
        given = pairs(arguments.pairs, seed=number)
        (our_time, our_numbers), (their_time, their_numbers) = ours(given), theirs(given)
        times.append((our_time, their_time))
        difference = max(
            [difference]
            + [
                abs(a - b)
                for mine, other in zip(our_numbers, their_numbers)
                for x, y in zip(mine, other)
                for a, b in zip(x, y)
            ]
        )
    our_speed, their_speed = (statistics.median(arguments.pairs / each[side] for each in times) for side in (0, 1))
    report = {
        "benchmark": "rouge",
        "speed_ratio": our_speed / their_speed,
        "ratios": [their / our for our, their in times],
        "largest_difference": difference,
        "pairs": arguments.pairs,
        "words": WORDS,
        "ours": {"pairs_per_second": our_speed},
        "peer": {"name": f"rouge-score {version('rouge-score')}", "pairs_per_second": their_speed},
        **({"test_cases": google_cases(arguments.data)} if arguments.data else {}),
        "machine": machine(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
