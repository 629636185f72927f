"""Rollouts: batches sampled from the policy itself, as a source that the training loop iterates over like any other.

A rollout samples one answer to each of a number of prompts, scores them, computes the log-probabilities under policy
and reference and the values of the states, and is then learned from for a few epochs. Everything lives in one network:
the reference is the policy with its adapter disabled, the critic a scalar head on the policy's hidden states.

Minibatches are cut once a rollout and packed in the same way for the old log-probabilities and for learning, so the
first minibatch after sampling has ratios of exactly 1. The state holds the rollout being learned from, so a resumed run
goes on bit for bit. Tokens are drawn at temperature 1: other distributions than the policy's own would need their own
log-probabilities. Left out: sampling and learning at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy
import torch
from pydantic import Field

from posttrain.align.advantage import gae, whiten
from posttrain.align.kl_penalty import KlPenalty
from posttrain.align.objectives import Plan
from posttrain.align.policy import score_tokens
from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.core.settings import Settings
from posttrain.data.chat_template import render
from posttrain.data.dataset import Dataset
from posttrain.data.encoded import Encoded
from posttrain.data.packing import Packed, pack, passes
from posttrain.data.record import Completion, Dialogue, Preference, Text, kind_of
from posttrain.decode.generation import Generation, generate
from posttrain.decode.search.sampling import Sampling
from posttrain.models.scalar_head import head_of
from posttrain.ops.divergence import estimate_kl
from posttrain.train.objectives import Encoding
from posttrain.train.part import Enough

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from posttrain.adapt import Adapter
    from posttrain.models.language_model import LanguageModel

VALUE_HEAD = "value_head"


@dataclass
class Prompt(Encoded):
    """A prompt as tokens, none of them learned.

    Attributes:
        source: As the record has it; what a reward sees.
    """

    source: str | Dialogue = ""


def encode_prompts(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, encoding: Encoding) -> list[Prompt]:
    """The prompts of records; conversations end with the header of the assistant's next message.

    Raises:
        BadRequest: If a record has no prompt, or one is empty or too long.
    """
    prompts = []
    for record in dataset.records:
        if isinstance(record, Text):
            source: str | Dialogue = record.text
        elif isinstance(record, (Completion, Preference)):
            source = record.prompt
        else:
            raise BadRequest(f"{record.origin}: a {kind_of(record)} record has no prompt.", "Give a `prompt` column.")
        dialogue = [{"role": "user", "content": source}] if isinstance(source, str) and encoding.chat else source
        if isinstance(dialogue, str):
            ids = list(tokenizer(dialogue, verbose=False)["input_ids"])
        else:
            text = render(dialogue, tokenizer, add_generation_prompt=True)
            ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if not ids:
            raise BadRequest(f"{record.origin}: the prompt is empty.", "Fill it in or remove the line.")
        limit = encoding.max_length or len(ids)
        if len(ids) > limit:
            if encoding.too_long == "skip":
                continue
            if encoding.too_long != "truncate":
                raise BadRequest(
                    f"{record.origin}: the prompt has {len(ids)} tokens, but max_length is {limit}.",
                    "Raise max_length, or decide with --set encoding.too_long=… (truncate or skip).",
                )
            ids = ids[-limit:]  # what stands directly before the answer matters most
        prompts.append(Prompt(ids, [False] * len(ids), record.origin, source=source))
    if not prompts:
        raise BadRequest("No prompt is left.", "Raise max_length.")
    return prompts


def sample_answers(model: LanguageModel, prompts: Sequence[Prompt], max_new_tokens: int, seed: int) -> list[Generation]:
    """One answer a prompt, drawn from the model's own distribution."""
    written = generate(
        model, [prompt.input_ids for prompt in prompts], search=Sampling(), max_new_tokens=max_new_tokens, seed=seed
    )
    return written.generations


def answered(prompt: Encoded, answer: Sequence[int]) -> Encoded:
    """Prompt and answer as one sequence in which the answer's tokens are learned, an end-of-text token included."""
    mask = [False] * len(prompt) + [True] * len(answer)
    return Encoded([*prompt.input_ids, *answer], mask, prompt.origin)


def kl_of_answers(
    model: LanguageModel, adapter: Adapter, items: Sequence[Encoded], tokens_per_pass: int
) -> list[float]:
    """Estimated KL from the reference of each answer that the policy sampled, in nats: k3 summed over its tokens."""
    model.network.eval()
    found: list[float] = []
    with torch.no_grad():
        for part in passes(items, tokens_per_pass):
            batch = pack(part).to(model.device)
            logprobs = score_tokens(model.network, batch).logprobs
            with adapter.disabled(model.network):
                reference = score_tokens(model.network, batch).logprobs
            each = estimate_kl(logprobs, reference, "k3").split([item.loss_tokens for item in part])
            found += [float(tokens.sum()) for tokens in each]
    return found


class RolloutSettings(Settings):
    """How episodes are sampled and judged."""

    episodes_per_rollout: int = Field(32, ge=1)
    """Answers sampled before they are learned from."""

    epochs: int = Field(2, ge=1)
    """Passes over each rollout."""

    discount: float = Field(1.0, gt=0, le=1)
    """gamma: what a reward is worth one token earlier."""

    trace: float = Field(0.95, ge=0, le=1)
    """lambda of generalised advantage estimation: 1 trusts the rewards alone, 0 the values."""

    unfinished_penalty: float = Field(0.0, ge=0)
    """Taken off the score of an answer that didn't end by itself within max_new_tokens."""

    kl: KlPenalty = KlPenalty()
    """The price of leaving the reference."""


@dataclass
class Episode:
    """An answer and what learning from it needs; lists have one number for each of its tokens.

    Attributes:
        input_ids: Prompt and answer.
        prompt_length: Tokens of the prompt.
        logprobs: Under the policy that sampled it.
        values: Of the state before each token.
        rewards: KL penalties, and the score at the last token.
    """

    input_ids: list[int]
    prompt_length: int
    logprobs: list[float]
    values: list[float]
    rewards: list[float]

    def item(self) -> Encoded:
        """As one sequence."""
        answer = len(self.input_ids) - self.prompt_length
        return Encoded(self.input_ids, [False] * self.prompt_length + [True] * answer)

    def per_token(self, numbers: Sequence[float]) -> list[float]:
        """Numbers of the answer's tokens at the positions that predict them, 0 elsewhere."""
        return [0.0] * (self.prompt_length - 1) + [*numbers, 0.0]


class Rollouts:
    """Optimizer steps without end, from the present position on.

    Args:
        model: The policy, with its adapter and value head.
        prompts: Gone through in a new order each time.
        settings: How to sample and judge.
        plan: What the training gives; its reward must be set.

    Attributes:
        history: One entry a rollout: rollout, episodes so far, mean reward and its deviation, kl (nats an answer),
            coefficient of the penalty, length in tokens and its correlation with the reward (a reward that is
            hacked often pays for length), the share of answers that ended by themselves, and, where several rewards
            judge, their disagreement (which grows where one of them is exploited).
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[Prompt], settings: RolloutSettings, plan: Plan) -> None:
        if plan.reward is None:
            raise BadRequest("Sampled answers need a reward.", "Give `reward`: a reward model or module:function.")
        self.model, self.prompts, self.settings, self.plan = model, prompts, settings, plan
        self.reward = plan.reward
        self.size = min(settings.episodes_per_rollout, plan.episodes)
        self.rollout = 0  # how many have been sampled
        self.position = 0  # steps taken on the last one
        self.coefficient = settings.kl.coefficient
        self.episodes: list[Episode] = []
        self.history: list[dict[str, float]] = []

    def __iter__(self) -> Iterator[list[Packed]]:
        """Steps without end."""
        while True:
            if not self.episodes:
                self._sample()
            batches = self._batches()
            total = self.settings.epochs * len(batches)
            while self.position < total:
                epoch, index = divmod(self.position, len(batches))
                self.position += 1
                yield batches[self._order((1, self.rollout, epoch), len(batches))[index]]
            self.episodes = []

    def _order(self, which: tuple[int, ...], count: int) -> list[int]:
        order: list[int] = numpy.random.default_rng((self.plan.seed, *which)).permutation(count).tolist()
        return order

    def _sample(self) -> None:
        """Sample and judge the next rollout."""
        prompts = [self._prompt(self.rollout * self.size + number) for number in range(self.size)]
        seed = self.plan.seed * 1_000_003 + self.rollout
        answers = sample_answers(self.model, prompts, self.plan.max_new_tokens, seed)
        verdict = self.reward.judge([prompt.source for prompt in prompts], [answer.text for answer in answers])
        scores = verdict.scores
        items = [answered(prompt, answer.token_ids) for prompt, answer in zip(prompts, answers)]
        judged = self._judge(items)
        self.episodes = []
        for item, answer, score, (logprobs, reference, values) in zip(items, answers, scores, judged):
            if answer.finish_reason == "length":
                score -= self.settings.unfinished_penalty
            rewards = self.settings.kl.rewards(score, logprobs, reference, self.coefficient)
            prompt_length = len(item) - len(answer.token_ids)
            self.episodes.append(
                Episode(item.input_ids, prompt_length, logprobs.tolist(), values.tolist(), rewards.tolist())
            )
        self.rollout += 1
        self.position = 0
        divergences = [float((logprobs - reference).sum()) for logprobs, reference, _ in judged]
        self._note(scores, divergences, answers, verdict.disagreement)
        kl, budget = self.history[-1]["kl"], self.settings.kl.budget
        if budget is not None and kl > budget:
            raise Enough(f"its answers are {kl:.3g} nats from the reference, the budget is {budget:g}.")
        self.coefficient = self.settings.kl.updated(self.coefficient, kl)

    def _prompt(self, number: int) -> Prompt:
        epoch, index = divmod(number, len(self.prompts))
        return self.prompts[self._order((0, epoch), len(self.prompts))[index]]

    def _judge(self, items: Sequence[Encoded]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Log-probabilities under policy and reference, and values, of each answer's tokens; on the CPU."""
        network = self.model.network
        network.eval()
        head = head_of(network, VALUE_HEAD)
        found = []
        with torch.no_grad(), torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.plan.autocast):
            for part in (part for group in self._groups(items) for part in passes(group, self.plan.tokens_per_pass)):
                batch = pack(part).to(self.model.device)
                scored = score_tokens(network, batch)
                with self.plan.adapter.disabled(network):
                    reference = score_tokens(network, batch).logprobs
                lengths = [item.loss_tokens for item in part]
                columns = (scored.logprobs, reference, head(scored.hidden))
                found += list(zip(*(column.cpu().split(lengths) for column in columns)))
        return found

    def _groups(self, items: Sequence[Encoded]) -> list[Sequence[Encoded]]:
        """Minibatches, the same for judging and for learning."""
        return [items[start : start + self.plan.batch_size] for start in range(0, len(items), self.plan.batch_size)]

    def _batches(self) -> list[list[Packed]]:
        """The rollout's minibatches with advantages, which are whitened over all its tokens."""
        estimates = [
            gae(torch.tensor(e.rewards), torch.tensor(e.values), self.settings.discount, self.settings.trace)
            for e in self.episodes
        ]
        advantages = whiten(torch.cat([advantage for advantage, _ in estimates])).split([len(a) for a, _ in estimates])
        items = []
        for episode, advantage, (_, returns) in zip(self.episodes, advantages, estimates):
            item = episode.item()
            item.extras = {
                "logprobs": episode.per_token(episode.logprobs),
                "values": episode.per_token(episode.values),
                "advantages": episode.per_token(advantage.tolist()),
                "returns": episode.per_token(returns.tolist()),
            }
            items.append(item)
        budget = self.plan.tokens_per_pass
        return [[pack(part).to(self.model.device) for part in passes(group, budget)] for group in self._groups(items)]

    def _note(
        self,
        scores: list[float],
        divergences: list[float],
        answers: Sequence[Generation],
        disagreement: float | None = None,
    ) -> None:
        kl, deviation = float(numpy.mean(divergences)), float(numpy.std(divergences))
        entry = {
            "rollout": self.rollout,
            "episodes": self.rollout * self.size,
            "reward": float(numpy.mean(scores)),
            "reward_deviation": float(numpy.std(scores)),
            "kl": kl,
            "coefficient": self.coefficient,
            "length": float(numpy.mean([len(answer.token_ids) for answer in answers])),
            "length_correlation": _correlation(scores, [len(answer.token_ids) for answer in answers]),
            "ended": float(numpy.mean([answer.finish_reason != "length" for answer in answers])),
        }
        if disagreement is not None:
            entry["disagreement"] = disagreement
        self.history.append(entry)
        # The mean of unbiased estimates may fall below zero by chance, but not by much more than its standard error.
        if kl < -1e-3 - 4 * deviation / math.sqrt(len(divergences)):
            events.message(
                f"The estimated KL of rollout {self.rollout} is {kl:.3g}, below zero beyond noise: answers aren't "
                "drawn from the distribution that is being trained.",
                level="warning",
            )

    def state_dict(self) -> dict[str, Any]:
        """The position and the rollout being learned from; JSON-able."""
        return {
            "rollout": self.rollout,
            "position": self.position,
            "coefficient": self.coefficient,
            "episodes": [asdict(episode) for episode in self.episodes],
            "history": [dict(entry) for entry in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.rollout, self.position = int(state["rollout"]), int(state["position"])
        self.coefficient = float(state["coefficient"])
        self.episodes = [Episode(**episode) for episode in state["episodes"]]
        self.history = [dict(entry) for entry in state["history"]]


def _correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one of the two doesn't vary."""
    if numpy.std(first) == 0 or numpy.std(second) == 0:
        return 0.0
    return float(numpy.corrcoef(first, second)[0, 1])
