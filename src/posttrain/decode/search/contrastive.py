"""Contrastive search: of the k likeliest tokens take one that is probable and doesn't repeat what was there before.

Su et al., 2022, "A Contrastive Framework for Neural Text Generation", equation 5: with V the k likeliest tokens, h_v
the network's last hidden state at v if it came next, h_j that at the j-th token of prompt and text, and s the cosine,

    argmax over v in V of  (1 - α) p(v) - α max_j s(h_v, h_j)

The other weighting in use lets α stand for the probability: α p(v) - (1 - α) max_j s(h_v, h_j). All candidates of all
texts go through the network in one pass, which also gives the distribution after the one that is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch.nn import functional

from posttrain.decode.job import Continuation
from posttrain.decode.search import Search

if TYPE_CHECKING:
    from posttrain.decode.engine import Output
    from posttrain.decode.job import Job
    from posttrain.decode.sequence import Generated


class Contrastive(Search):
    """One deterministic continuation a prompt that avoids repetition by looking at hidden states."""

    k: int = Field(4, ge=1)
    """How many of the likeliest tokens are candidates; 1 is greedy search."""

    alpha: float = Field(0.6, ge=0, le=1)
    """The weight; as a penalty 0 is greedy search."""

    weighting: Literal["penalty", "probability"] = "penalty"
    """What alpha weighs: the penalty for likeness, as in the paper, or the probability."""

    def run(self, job: Job) -> list[Generated]:
        penalty = self.alpha if self.weighting == "penalty" else 1 - self.alpha
        width = min(self.k, job.engine.network.config.get_text_config().vocab_size)

        def advance(texts: Sequence[_Text], output: Output) -> list[Continuation | None]:
            rows = torch.arange(len(texts), device=output.logits.device) * width
            if output.prompt_hidden is not None:
                for text, states in zip(texts, output.prompt_hidden[::width]):
                    text.remember(states)
                chosen = [0] * len(texts)  # all rows are alike
            else:
                states = output.hidden.view(len(texts), width, -1)
                chosen = _choose(texts, states, penalty)
                for text, choice, of_candidates in zip(texts, chosen, states):
                    text.take(choice, of_candidates[choice])
            logits = output.logits[rows + rows.new_tensor(chosen)]
            self._propose(job, texts, logits, width)
            return [
                None if text.sequence.finish_reason else Continuation([choice] * width, text.tokens)
                for text, choice in zip(texts, chosen)
            ]

        texts = [_Text(job.sequence(index)) for index in range(len(job.prompts))]
        return [text.sequence for text in job.drive(texts, advance, width, prompt_hidden=True)]

    def _propose(self, job: Job, texts: Sequence[_Text], logits: torch.Tensor, width: int) -> None:
        """Give each text its next candidates, from the scores [B, V] after its last token."""
        normalizers = job.normalizers(logits)
        processed = job.process(logits, [text.sequence for text in texts])
        probabilities, tokens = processed.softmax(-1).topk(width)  # [B, width]
        logprobs = logits.gather(1, tokens) - normalizers[:, None]
        forbidden = processed.gather(1, tokens) == -torch.inf
        probabilities = probabilities.masked_fill(forbidden, -torch.inf)
        for text, *proposed in zip(texts, tokens.tolist(), logprobs.tolist(), probabilities):
            text.tokens, text.logprobs, text.probabilities = proposed


class _Text:
    """A sequence, the directions of the hidden states of all its tokens, and its candidates for the next one."""

    def __init__(self, sequence: Generated) -> None:
        self.sequence = sequence
        self.prompt_index = sequence.prompt_index
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.probabilities: torch.Tensor  # [width]; -inf where there are fewer candidates
        self._directions: torch.Tensor  # [prompt and most new tokens, H]
        self._count = 0

    @property
    def length(self) -> int:
        """How many new tokens it has."""
        return self.sequence.length

    @property
    def directions(self) -> torch.Tensor:
        """[n, H] of all n tokens so far, each of length 1."""
        return self._directions[: self._count]

    def remember(self, states: torch.Tensor) -> None:
        """Begin with the hidden states of the prompt, [n, H]."""
        self._count = len(states)
        places = self._count + self.sequence.ending.max_new_tokens
        self._directions = states.new_empty(places, states.shape[1], dtype=torch.float32)
        self._directions[: self._count] = functional.normalize(states.float(), dim=-1)

    def take(self, choice: int, state: torch.Tensor) -> None:
        """Append a candidate, whose hidden state is given, [H]."""
        self.sequence.append(self.tokens[choice], self.logprobs[choice])
        self._directions[self._count] = functional.normalize(state.float(), dim=-1)
        self._count += 1


def _choose(texts: Sequence[_Text], states: torch.Tensor, penalty: float) -> list[int]:
    """The best candidate of each text, whose hidden states are given, [B, k, H]."""
    directions = functional.normalize(states.float(), dim=-1)
    likeness = torch.stack([(new @ text.directions.T).amax(-1) for text, new in zip(texts, directions)])  # [B, k]
    probabilities = torch.stack([text.probabilities for text in texts])
    # The likelier of equals comes first. Where the probability has no weight, a forbidden candidate still has -inf.
    scores = (1 - penalty) * probabilities.clamp(min=0) - penalty * likeness
    best: list[int] = scores.masked_fill(probabilities < 0, -torch.inf).argmax(-1).tolist()
    return best
