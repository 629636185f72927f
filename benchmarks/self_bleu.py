"""Self-BLEU beside the usual loop, sacrebleu's sentence BLEU of each text against all the others, in one process.

    python benchmarks/self_bleu.py
    python benchmarks/self_bleu.py --texts 400

Texts are of 40 words from the built-in prose, a third of them replaced. Both sides tokenize by 13a and smooth
exponentially. Prints one JSON line: texts a second of both, their ratio in each round, and the largest difference.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from importlib.metadata import version

from sacrebleu.metrics.bleu import BLEU

from posttrain.core.runtime import machine
from posttrain.data import dataset
from posttrain.measure.self_bleu import SelfBleu

WORDS = 40


def sampled(count: int, seed: int) -> list[str]:
    """Texts that have something in common, as samples of one model do."""
    vocabulary = str(dataset.read("builtin:prose").records[0].text).split()  # type: ignore[union-attr]
    generator = random.Random(seed)
    found = []
    for _ in range(count):
        start = generator.randrange(len(vocabulary) - WORDS)
        words = vocabulary[start : start + WORDS]
        found.append(" ".join(word if generator.random() < 2 / 3 else generator.choice(vocabulary) for word in words))
    return found


def ours(texts: list[str]) -> tuple[float, float]:
    """Seconds and the value."""
    start = time.perf_counter()
    metric = SelfBleu()
    value = float(metric.values(metric.statistics(texts, []).rows.sum(axis=0, keepdims=True))[0])
    return time.perf_counter() - start, value


def theirs(texts: list[str]) -> tuple[float, float]:
    """Seconds and the value."""
    start = time.perf_counter()
    bleu = BLEU(effective_order=True)
    scores = [bleu.sentence_score(text, texts[:place] + texts[place + 1 :]).score for place, text in enumerate(texts)]
    return time.perf_counter() - start, statistics.fmean(scores)


def main() -> None:
    """Run both in turns and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    times, difference = [], 0.0
    for number in range(arguments.rounds):
        texts = sampled(arguments.texts, seed=number)
        (our_time, our_value), (their_time, their_value) = ours(texts), theirs(texts)
        times.append((our_time, their_time))
        difference = max(difference, abs(our_value - their_value))
    our_speed, their_speed = (statistics.median(arguments.texts / each[side] for each in times) for side in (0, 1))
    report = {
        "benchmark": "self_bleu",
        "speed_ratio": our_speed / their_speed,
        "ratios": [their / our for our, their in times],
        "largest_difference": difference,
        "texts": arguments.texts,
        "words": WORDS,
        "ours": {"texts_per_second": our_speed},
        "peer": {"name": f"sacrebleu {version('sacrebleu')}, a loop", "texts_per_second": their_speed},
        "machine": machine(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
