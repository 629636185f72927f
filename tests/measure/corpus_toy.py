"""Made-up texts with references for the metrics that sacrebleu computes."""

from __future__ import annotations

import random

WORDS = ["The", "the", "a", "fox", "dog", "cat", "jumps", "over", ",", ".", "night", "rain", "fell", "!"]


def corpus(seed: int = 0, texts: int = 60) -> tuple[list[str], list[list[str]]]:
    """Texts with one to three references each, the first of which has most of the text's words; some are empty."""
    generator = random.Random(seed)

    def sentence() -> list[str]:
        return generator.choices(WORDS, k=generator.randrange(1, 15))

    predictions, references = [], []
    for _ in range(texts):
        right = sentence()
        kept = [generator.choice(WORDS) if generator.random() < 0.2 else word for word in right]
        predictions.append(" ".join(kept[generator.randrange(3) :]))
        references.append([" ".join(each) for each in (right, *(sentence() for _ in range(generator.randrange(3))))])
    return predictions, references


def streams(references: list[list[str]]) -> list[list[str | None]]:
    """References as sacrebleu takes them: one list for each number of reference."""
    return [[each[i] if i < len(each) else None for each in references] for i in range(max(map(len, references)))]
