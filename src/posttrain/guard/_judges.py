"""Models that judge texts: a classifier by its labels, a language model by the answer it would give to a question.

The language model isn't sampled: the probabilities of the two answers it is offered are compared, so that the same text
is always judged alike (as Zheng et al., 2023, "Judging LLM-as-a-Judge", note, free answers are neither stable nor easy
to read). Long texts are judged in pieces that fit the model's context.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel

# The label under which a language model's verdict stands in a policy.
UNSAFE = "unsafe"

# Characters of a text for each token of a context; English has four to five a token.
_CHARACTERS_PER_TOKEN = 3
# Tokens left for the question and the chat template's marks.
_AROUND = 160


@dataclass(frozen=True)
class Judge:
    """A model as a judge.

    Attributes:
        shares: Probability of each label for a piece of text that isn't blank.
        size: Characters of a piece.
    """

    shares: Callable[[str], dict[str, float]]
    size: int

    def pieces(self, text: str) -> Iterator[tuple[int, str]]:
        """The text's pieces with their places."""
        for start in range(0, len(text), self.size):
            if (piece := text[start : start + self.size]).strip():
                yield start, piece


@functools.lru_cache(maxsize=2)
def classifier(reference: str) -> Judge:
    """A network that labels texts.

    Args:
        reference: A folder or hub:owner/name.
    """
    from posttrain.decode.labelling import classify

    model = _loaded(reference)
    return Judge(lambda text: classify(model, [text])[0].probabilities, _size(model, 0))


@functools.lru_cache(maxsize=4)
def language_model(reference: str, question: str, bad: str, good: str) -> Judge:
    """A language model that is asked about a text.

    Args:
        reference: A model.
        question: What it is asked; the text follows. Empty for models that judge whatever they are given.
        bad: The answer that condemns.
        good: The answer that acquits.
    """
    model = _loaded(reference)
    return Judge(lambda text: {UNSAFE: _verdict(model, question, text, bad, good)}, _size(model, _AROUND))


@functools.lru_cache(maxsize=2)
def _loaded(reference: str) -> LanguageModel:
    from posttrain.models.sources import load

    return load(reference)


def _size(model: LanguageModel, around: int) -> int:
    context = model.context_length or 1_000_000
    return _CHARACTERS_PER_TOKEN * max(context - around, context // 4)


def _verdict(model: LanguageModel, question: str, text: str, bad: str, good: str) -> float:
    """The probability of the answer `bad`, of the two."""
    from posttrain.decode.generation import prompt_tokens
    from posttrain.models.token_losses import token_losses

    said = f"{question}\n\n{text}" if question else text
    if model.tokenizer.chat_template:
        asked, blank = prompt_tokens(model, [{"role": "user", "content": said}]), ""
    else:
        asked, blank = prompt_tokens(model, f"{said}\n\nAnswer:"), " "
    answers = [model.tokenizer(blank + each, add_special_tokens=False)["input_ids"] for each in (bad, good)]
    sequences = [[*asked, *answer] for answer in answers]
    wanted = [range(len(asked), len(sequence)) for sequence in sequences]
    window = max(map(len, sequences))
    worse, better = (
        float(nats.sum())
        for nats in token_losses(model.network, sequences, window=window, stride=window, wanted=wanted)
    )
    # p(bad) / (p(bad) + p(good)), from nats; a large difference must not overflow.
    return 1 / (1 + math.exp(min(worse - better, 700.0)))
