"""Negative log-likelihoods of tokens: many sequences at once, each wanted token scored exactly once.

A sequence that is longer than the window is read in windows that move by a stride; a window scores only what no earlier
one did, each token with at least window - stride tokens of context (as in the fixed-length recipe of Hugging Face's
documentation). The last window ends with the sequence and may be shorter. Where windows don't overlap (stride =
window), the token before a window is read too, so that its first token can be scored, as lm-evaluation-harness does it.

Windows are packed without padding, so how many go through the network together changes nothing beyond the rounding of
float32 sums. Logits are taken in chunks of rows, and only for wanted tokens. An encoder-decoder network's logits are
its class's own, for a bounded number of target tokens at a time. Left out: masked networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from posttrain.core.errors import BadRequest
from posttrain.core.events import Task
from posttrain.models.forward import VocabularyHead, hidden_states, vocabulary_head
from posttrain.models.mapped_weights import blocks_released
from posttrain.ops.logprobs import linear_logprobs, token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel

Nats = NDArray[np.float32]

# Rows of logits held at a time.
_CHUNK = 256
# A mean of more nats a token has no perplexity: exp of it is no float64.
HIGHEST = 709.0
# What a label that isn't one is called in transformers.
_IGNORED = -100


@dataclass(frozen=True)
class Window:
    """A window over tokens [begin, end) of a sequence: the last `scored` are scored, all but the last one are read."""

    begin: int
    end: int
    scored: int


def windows(length: int, window: int, stride: int) -> list[Window]:
    """The windows over a sequence of `length` tokens; the first token has no predecessor and is never scored.

    Args:
        length: Tokens of the sequence.
        window: Tokens of a window, at least 2.
        stride: By how much it moves, in [1, window].
    """
    found: list[Window] = []
    done = 1
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        if end > done:
            # Without overlap the first scored token needs one token before the window; `window` tokens are read then.
            found.append(Window(min(begin, done - 1), end, end - done))
        done = max(done, end)
        if end == length:
            break
    return found


def window_and_stride(model: LanguageModel, window: int | None, stride: int | None, usual: int) -> tuple[int, int]:
    """The window and the stride to use.

    Args:
        model: Its context is the longest window.
        window: What was asked for.
        stride: What was asked for; half the window if None.
        usual: The window where none was asked for, unless the context is shorter.

    Raises:
        BadRequest: If they don't fit each other or the model.
    """
    context = model.context_length
    window = window or min(usual, context or usual)
    stride = stride or max(1, window // 2)
    if stride > window:
        raise BadRequest(f"stride {stride} is larger than window {window}: tokens would be left out.")
    if context and window > context:
        raise BadRequest(
            f"window {window} is longer than the model's context of {context} tokens.",
            f"Use --window {context} or less.",
        )
    return window, stride


@dataclass(frozen=True)
class _Read:
    """A window of one sequence, and which of its tokens are wanted, as places in the sequence."""

    sequence: int
    begin: int
    end: int
    wanted: Sequence[int]

    @property
    def tokens(self) -> int:
        return self.end - self.begin - 1  # the last one isn't read


def token_losses(
    network: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    *,
    window: int,
    stride: int,
    wanted: Sequence[Sequence[int]] | None = None,
    tokens_per_pass: int = 2048,
    progress: Task | None = None,
) -> list[Nats]:
    """Negative log-likelihood of every token but each sequence's first, or of the wanted ones.

    Args:
        network: A causal language model. It is measured in evaluation mode and left in the mode it was in.
        sequences: Token ids; windows don't cross sequences.
        window: Most tokens read at once of a sequence, at least 2.
        stride: By how much the window moves, in [1, window].
        wanted: For each sequence the places of the tokens to be scored, ascending and above 0; None for all of them.
        tokens_per_pass: Most tokens that go through the network together, but always a whole window.
        progress: Told of scored tokens.

    Returns:
        For each sequence the nats of its scored tokens in order, float32.
    """
    work = [
        read
        for number, ids in enumerate(sequences)
        for read in _reads(number, len(ids), window, stride, None if wanted is None else wanted[number])
    ]
    head = vocabulary_head(network)
    device = head.weight.device
    # Networks that can't be packed are padded, so windows of like length go together.
    order = sorted(range(len(work)), key=lambda each: work[each].tokens)
    nats: list[Nats] = [np.empty(0, np.float32)] * len(work)
    training = network.training
    network.eval()
    with torch.inference_mode(), blocks_released(network):
        for part in _passes(work, order, tokens_per_pass):
            reads = [work[each] for each in part]
            # The hidden state of a token predicts the next one, so the last token of a window is never read.
            read = [sequences[each.sequence][each.begin : each.end - 1] for each in reads]
            starts = np.cumsum([0, *map(len, read)])
            rows = np.concatenate([np.asarray(r.wanted) - 1 - r.begin + at for r, at in zip(reads, starts)])
            targets = [sequences[each.sequence][place] for each in reads for place in each.wanted]
            flat = torch.tensor([token for ids in read for token in ids], device=device)
            hidden = hidden_states(network, flat, torch.from_numpy(starts).to(device))
            logprobs = _logprobs(head, hidden[torch.from_numpy(rows).to(device)], torch.tensor(targets, device=device))
            counts = [len(each.wanted) for each in reads]
            for each, values in zip(part, np.split(-logprobs.float().cpu().numpy(), np.cumsum(counts)[:-1])):
                nats[each] = values
            if progress is not None:
                progress.advance(len(targets))
    network.train(training)
    found: list[list[Nats]] = [[] for _ in sequences]
    for read_, values in zip(work, nats):
        found[read_.sequence].append(values)
    return [np.concatenate(parts) if parts else np.empty(0, np.float32) for parts in found]


def _reads(number: int, length: int, window: int, stride: int, wanted: Sequence[int] | None) -> Iterator[_Read]:
    """The windows over one sequence that score a wanted token, each ending behind the last one it scores."""
    if wanted is None:
        for each in windows(length, window, stride):
            yield _Read(number, each.begin, each.end, range(each.end - each.scored, each.end))
        return
    places = np.asarray(wanted, dtype=np.int64)
    if places.size and not 0 < places[0] <= places[-1] < length:
        raise ValueError(f"places of wanted tokens must lie in [1, {length}), not {places[0]} to {places[-1]}")
    for each in windows(length, window, stride):
        inside = places[(places >= each.end - each.scored) & (places < each.end)]
        if inside.size:
            yield _Read(number, each.begin, int(inside[-1]) + 1, inside.tolist())


def _passes(work: Sequence[_Read], order: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Numbers of windows in the given order, together at most `limit` tokens, or one longer window."""
    part: list[int] = []
    tokens = 0
    for each in order:
        if part and tokens + work[each].tokens > limit:
            yield part
            part, tokens = [], 0
        part.append(each)
        tokens += work[each].tokens
    if part:
        yield part


def _logprobs(head: VocabularyHead, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[N] log-probabilities of the targets, never holding more than a chunk of logits."""
    if isinstance(head.module, nn.Linear):
        return linear_logprobs(
            hidden, head.weight, targets, bias=head.bias, chunk=_CHUNK, softcap=head.softcap, scale=head.scale
        )
    # A projection of another kind may compute something else than its matrix says: a quantized one rounds its inputs.
    chunks = zip(hidden.split(_CHUNK), targets.split(_CHUNK))
    return torch.cat([token_logprobs(head.logits(rows), wanted) for rows, wanted in chunks])


def target_losses(
    network: PreTrainedModel,
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    tokens_per_pass: int = 512,
    progress: Task | None = None,
) -> list[Nats]:
    """Negative log-likelihood of every token of each target, given its source, under an encoder-decoder network.

    Args:
        network: One with a decoder of its own. It is measured in evaluation mode and left in the mode it was in.
        sources: Token ids that the encoder reads.
        targets: Token ids that the decoder writes, each at least one.
        tokens_per_pass: Most target tokens, padding included, that are scored together, but always a whole target; as
            many rows of logits exist at once.
        progress: Told of scored tokens.

    Returns:
        For each target the nats of its tokens, float32.
    """
    device = next(network.parameters()).device
    padding = network.config.get_text_config().pad_token_id or 0
    order = sorted(range(len(targets)), key=lambda each: (len(targets[each]), len(sources[each])))
    nats: list[Nats] = [np.empty(0, np.float32)] * len(targets)
    training = network.training
    network.eval()
    with torch.inference_mode():
        for part in _padded_passes([len(each) for each in targets], order, tokens_per_pass):
            ids, mask = _padded([sources[each] for each in part], padding, device)
            labels, real = _padded([targets[each] for each in part], _IGNORED, device)
            # Shifted to the right by the class itself, which knows what token a decoder begins with.
            output: Any = network(input_ids=ids, attention_mask=mask.long(), labels=labels)
            losses = -token_logprobs(output.logits, labels.clamp(min=0)).float().cpu().numpy()
            for each, values in zip(part, losses):
                nats[each] = values[: len(targets[each])].copy()
            if progress is not None:
                progress.advance(int(real.sum()))
    network.train(training)
    return nats


def _padded_passes(lengths: Sequence[int], order: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Numbers in an order of ascending lengths, so many that rows times the longest are at most `limit`, or one."""
    part: list[int] = []
    for each in order:
        if part and (len(part) + 1) * lengths[each] > limit:
            yield part
            part = []
        part.append(each)
    if part:
        yield part


def _padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal length as [N, L], and which entries are real."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(width, device=device) < lengths[:, None]
