"""Log-likelihoods of continuations given contexts: many pairs of texts at once, common beginnings computed once.

Pairs become tokens as in lm-evaluation-harness, so that scores agree with it item by item: blanks at the context's end
go to the continuation; the continuation's tokens are those of the whole text behind as many as the context alone has;
the tokenizer adds its own special tokens unless the text begins with its first one; an empty context is the token that
begins a text (or ends one, where there is no such token). Sums are float64 over float32 log-probabilities.

A pair too long for the model loses tokens at its beginning, and says how many. Left out: encoder-decoder models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from posttrain.bench.shared_pass import SharedPasses
from posttrain.core.errors import BadRequest, Failure
from posttrain.core.events import task
from posttrain.decode.engine import Engine
from posttrain.models.forward import vocabulary_head

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel

# Rows of logits held at a time.
_CHUNK = 128


@dataclass(frozen=True)
class Likelihood:
    """What a model thinks of a continuation.

    Attributes:
        logprob: Natural log-probability of all its tokens, given the context.
        greedy: Whether each of its tokens is the likeliest one.
        tokens: How many tokens it has.
        cut: How many tokens of the context were left out because the model can't read so much.
    """

    logprob: float
    greedy: bool
    tokens: int
    cut: int


@dataclass(frozen=True)
class Encoded:
    """A pair as tokens.

    Attributes:
        ids: What the model reads: the context and all but the last token of the continuation.
        targets: The continuation; the last ``len(targets)`` of `ids` predict it.
        cut: Tokens left out at the beginning.
    """

    ids: list[int]
    targets: list[int]
    cut: int


def likelihoods(
    model: LanguageModel, pairs: Sequence[tuple[str, str]], tokens_per_pass: int = 1024
) -> list[Likelihood]:
    """Log-likelihoods of continuations.

    Args:
        model: A causal language model.
        pairs: Context and continuation of each.
        tokens_per_pass: Most tokens read at once; it changes time and memory, and the values only by rounding.

    Returns:
        One for each pair, in order.

    Raises:
        BadRequest: If the model isn't causal, or a continuation has no tokens or more than the model can read.
        Failure: If the model's logits aren't numbers.
    """
    if not model.is_causal:
        name = model.reference or type(model.network).__name__
        raise BadRequest(f"{name} is not a causal language model, so texts have no likelihood under it.")
    encoded = encode_pairs(model, pairs)
    places: dict[tuple[int, ...], int] = {}
    sequence_of = [places.setdefault(tuple(pair.ids), len(places)) for pair in encoded]
    sums = [0.0] * len(pairs)
    greedy = [True] * len(pairs)
    with Engine(model).running():
        passes = SharedPasses(model.network, [list(ids) for ids in places], tokens_per_pass)
        questions = _Questions(passes, encoded, sequence_of)
        with task("Likelihoods", total=passes.tree.tokens, unit="tokens") as progress:
            for begin, end, hidden in passes:
                for pair, logprob, likeliest in questions.answers(model, begin, end, hidden):
                    sums[pair] += logprob
                    greedy[pair] &= likeliest
                progress.advance(len(hidden))
    found = [Likelihood(s, g, len(e.targets), e.cut) for s, g, e in zip(sums, greedy, encoded)]
    if any(each.logprob != each.logprob for each in found):
        raise Failure("The model's logits are not numbers (NaN).", "Check its weights, or load it in float32.")
    return found


class _Questions:
    """Which token's probability is wanted at which place of the tree."""

    def __init__(self, passes: SharedPasses, encoded: Sequence[Encoded], sequence_of: Sequence[int]) -> None:
        self._nodes = passes.tree.nodes
        # By node: (token of the node, pair, wanted token).
        self._wanted: dict[int, list[tuple[int, int, int]]] = {}
        for pair, (each, sequence) in enumerate(zip(encoded, sequence_of)):
            node: int | None = passes.tree.ends[sequence]
            for position, target in zip(reversed(range(len(each.ids))), reversed(each.targets)):
                assert node is not None
                while position < self._nodes[node].start:
                    node = self._nodes[node].parent
                    assert node is not None
                self._wanted.setdefault(node, []).append((position - self._nodes[node].start, pair, target))

    def answers(
        self, model: LanguageModel, begin: int, end: int, hidden: torch.Tensor
    ) -> Iterator[tuple[int, float, bool]]:
        """The pair, log-probability and whether it is the likeliest, of every wanted token in the nodes [begin, end).

        Args:
            model: The model.
            begin: First node of the pass.
            end: The node after its last.
            hidden: [T, H], the states of the nodes' tokens.
        """
        wanted: list[tuple[int, int, int]] = []  # row of hidden, pair, token
        first = 0
        for node in range(begin, end):
            wanted += [(first + offset, pair, token) for offset, pair, token in self._wanted.pop(node, [])]
            first += len(self._nodes[node].tokens)
        wanted.sort()
        head = vocabulary_head(model.network)
        rows = sorted({row for row, _, _ in wanted})
        for chunk in range(0, len(rows), _CHUNK):
            part = rows[chunk : chunk + _CHUNK]
            place = {row: i for i, row in enumerate(part)}
            asked = [each for each in wanted if each[0] in place]
            logits = head.logits(hidden[part]).float()  # [rows, V]
            at = torch.tensor([place[row] for row, _, _ in asked], device=logits.device)
            tokens = torch.tensor([token for _, _, token in asked], device=logits.device)
            logprobs = logits[at, tokens] - logits.logsumexp(-1)[at]
            likeliest = logits.argmax(-1)[at] == tokens
            yield from zip((pair for _, pair, _ in asked), logprobs.tolist(), likeliest.tolist())


def encode_pairs(model: LanguageModel, pairs: Sequence[tuple[str, str]]) -> list[Encoded]:
    """Pairs of texts as tokens; see the module.

    Raises:
        BadRequest: If a continuation has no tokens, or more than the model can read.
    """
    moved = [_blanks_moved(context, continuation) for context, continuation in pairs]
    contexts = list(dict.fromkeys(context for context, _ in moved if context))
    wholes = list(dict.fromkeys(context + continuation for context, continuation in moved if context))
    alone = list(dict.fromkeys(continuation for context, continuation in moved if not context))
    ids_of = dict(zip([*contexts, *wholes], encode_texts(model, [*contexts, *wholes])))
    plain = dict(zip(alone, _ids(model, alone, special=False)))
    found = []
    for context, continuation in moved:
        if context:
            read = ids_of[context]
            targets = ids_of[context + continuation][len(read) :]
        else:
            read, targets = [first_token(model)], plain[continuation]
            if targets[:1] == read:  # the text brings its first token along
                targets = targets[1:]
        found.append(_fitted(model, read, targets, continuation))
    return found


def encode_texts(model: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts with the tokenizer's special tokens, but no second first one where a text brings its own."""
    begin = model.tokenizer.bos_token
    own = [bool(begin) and text.startswith(str(begin)) for text in texts]
    special = iter(_ids(model, [text for text, has in zip(texts, own) if not has], special=True))
    plain = iter(_ids(model, [text for text, has in zip(texts, own) if has], special=False))
    return [next(plain) if has else next(special) for has in own]


def first_token(model: LanguageModel) -> int:
    """The token that stands before a text without context.

    Raises:
        BadRequest: If the tokenizer has neither a first nor a last token.
    """
    for token in (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise BadRequest("The model's tokenizer has no token that begins a text, so a text needs a context here.")


def _ids(model: LanguageModel, texts: Sequence[str], special: bool) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = model.tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
    return ids


def _blanks_moved(context: str, continuation: str) -> tuple[str, str]:
    """The pair with the blanks at the context's end in front of the continuation."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _fitted(model: LanguageModel, context: list[int], targets: list[int], continuation: str) -> Encoded:
    """The pair cut from the left to what the model can read."""
    if not targets:
        raise BadRequest(f"The continuation {continuation!r} adds no token to its context, so it has no likelihood.")
    limit = model.context_length
    if limit is not None and len(targets) > limit:
        raise BadRequest(
            f"A continuation has {len(targets)} tokens, the model reads {limit}: {continuation[:60]!r} …",
            "Use a model with a longer context.",
        )
    ids = [*context, *targets[:-1]]
    cut = 0 if limit is None else max(0, len(ids) - limit)
    return Encoded(ids[cut:], targets, cut)
