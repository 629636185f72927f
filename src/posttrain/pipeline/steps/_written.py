"""What ways of decoding write on the same prompts, in figures: shared by the steps that compare them.

Each prompt is answered several times. Quality is the perplexity of what was written, under the model itself or a judge,
given the prompt and without any temperature; low is fluent, and very low is often repetition. Variety is looked at
among the answers to one prompt: Self-BLEU (Zhu et al., 2018, "Texygen"), distinct-1 and distinct-2 (Li et al., 2016),
both in words. Repetition is the share of 4-grams of one answer that it had before (Welleck et al., 2020).

A figure is made of what each prompt adds to it, so prompts are what the bootstrap draws, for intervals and for paired
differences alike.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from posttrain.core.catalog import block, blocks, build
from posttrain.core.errors import BadRequest, Failure
from posttrain.core.events import task
from posttrain.core.settings import Settings
from posttrain.decode.generation import generate, prompt_tokens
from posttrain.decode.processors import LogitsProcessor
from posttrain.decode.search import Search
from posttrain.measure import TextMetric
from posttrain.models.language_model import LanguageModel
from posttrain.models.sources import load, resolve
from posttrain.models.token_losses import token_losses
from posttrain.ops.bootstrap import paired_test, sums_interval
from posttrain.ops.ngrams import distinct, repetition_rate
from posttrain.pipeline.steps import Context, Step
from posttrain.pipeline.steps._learning import stamp
from posttrain.pipeline.steps.generate import hash_of_prompts, read_prompts
from posttrain.pipeline.views import View, scatter, table

Array = NDArray[np.float64]
Question = list[dict[str, Any]] | str
Name = TypeVar("Name", bound=Hashable)

# The figures as people call them.
LABELS = {"self_bleu": "Self-BLEU", "distinct_1": "distinct-1", "distinct_2": "distinct-2"}

# exp of more is no float64.
_HIGHEST = 700.0


class Way(Settings):
    """A way of decoding."""

    search: block("search") = Field(default_factory=lambda: {"greedy": {}})  # type: ignore[valid-type]
    """How tokens are chosen."""

    process: blocks("process") = Field(default_factory=list)  # type: ignore[valid-type]
    """Changes of the next-token distribution before that, in written order."""


@dataclass(frozen=True)
class Written:
    """What one way of decoding wrote.

    Attributes:
        texts: [prompts][samples].
        tokens: Their token ids, with those that ended them.
        tokens_per_second: New tokens a second of all samples together.
    """

    texts: list[list[str]]
    tokens: list[list[list[int]]]
    tokens_per_second: float


def questions(prompts: Sequence[str], chat: bool) -> list[Question]:
    """Prompts as the model is asked them: as a user's message, or as a text to continue."""
    return [[{"role": "user", "content": prompt}] if chat else prompt for prompt in prompts]


def write(
    model: LanguageModel,
    asked: Sequence[Question],
    samples: int,
    *,
    search: Search,
    processors: Sequence[LogitsProcessor] = (),
    max_new_tokens: int,
    batch_size: int,
    seed: int,
) -> Written:
    """Answer each prompt so many times, every time with draws of its own; of a search's answers the best one counts."""
    found = generate(
        model,
        [each for each in asked for _ in range(samples)],
        search=search,
        processors=processors,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
    )
    best = [generation for generation in found.generations if generation.sample == 0]
    if len(best) != len(asked) * samples:
        raise Failure("Not every prompt has an answer: the processors allowed none.", "Loosen them.")
    starts = range(0, len(best), samples)
    return Written(
        texts=[[generation.text for generation in best[start : start + samples]] for start in starts],
        tokens=[[generation.token_ids for generation in best[start : start + samples]] for start in starts],
        tokens_per_second=found.tokens_per_second,
    )


def judge_of(name: str | None, context: Context) -> LanguageModel:
    """The model that scores texts: by the name of an earlier step or by reference, by default the one that writes."""
    if name is None or name == context.model_name:
        return context.model
    if name in context.keys:
        return context.load(name)
    beside = context.model
    return load(name, device=beside.device, dtype=beside.network.dtype)


@dataclass(frozen=True)
class Figure:
    """A figure over n prompts.

    Attributes:
        items: [n, w], what each prompt adds.
        statistic: Maps sums over drawn prompts, [R, w], to R figures.
    """

    items: Array
    statistic: Callable[[Array], Array]

    @property
    def value(self) -> float:
        """The figure over all prompts."""
        return float(self.statistic(self.items.sum(0, keepdims=True))[0])

    def interval(self) -> list[float]:
        """95 % bootstrap interval over prompts, [low, high]."""
        found = sums_interval(self.items, self.statistic)
        return [found.low, found.high]

    def against(self, other: Figure) -> dict[str, Any]:
        """The difference from another way's figure on the same prompts: `difference`, `interval` and `p_value`."""
        found = paired_test(self.items, other.items, self.statistic)
        return {
            "difference": found.difference.value,
            "interval": [found.difference.low, found.difference.high],
            "p_value": found.p_value,
        }


def figures(
    written: Written, asked: Sequence[Question], model: LanguageModel, judge: LanguageModel
) -> dict[str, Figure]:
    """Everything that is counted, by name.

    Args:
        written: The texts.
        asked: What they answer.
        model: Who wrote them.
        judge: Under whom they are scored; the model itself or another one.
    """
    words = [[text.lower().split() for text in texts] for texts in written.texts]
    found = {"perplexity": Figure(_scores(written, asked, model, judge), _perplexity)}
    if len(written.texts[0]) > 1:
        self_bleu = build("measure", "self_bleu")
        assert isinstance(self_bleu, TextMetric)
        # Answers without any words are all alike.
        found["self_bleu"] = _mean(
            [self_bleu.score(texts).value if any(group) else 100.0 for texts, group in zip(written.texts, words)]
        )
    found["distinct_1"] = _mean([distinct(group, 1) for group in words])
    found["distinct_2"] = _mean([distinct(group, 2) for group in words])
    found["repetition"] = _mean([float(np.mean([repetition_rate(each, 4) for each in group])) for group in words])
    found["tokens"] = _mean([float(np.mean([len(each) for each in group])) for group in written.tokens])
    return found


def _mean(values: Sequence[float]) -> Figure:
    count = len(values)
    return Figure(np.asarray(values, dtype=np.float64)[:, None], lambda sums: sums[:, 0] / count)


def nats_per_token(sums: Array) -> Array:
    """Sums of nats and of tokens, [R, 2] -> nats a token, [R]; a draw without tokens counts as one without nats."""
    return sums[:, 0] / np.maximum(sums[:, 1], 1)


def _perplexity(sums: Array) -> Array:
    return np.exp(np.minimum(nats_per_token(sums), _HIGHEST))


def _scores(written: Written, asked: Sequence[Question], model: LanguageModel, judge: LanguageModel) -> Array:
    """Nats and tokens of what was written to each prompt, [n, 2].

    A judge with the writer's tokenizer scores exactly the tokens that were written, the end of the text included; one
    with another tokenizer scores the texts.
    """
    if not judge.is_causal:
        raise BadRequest(f"{judge.reference or 'The judge'} is not a causal language model, so it can't score texts.")
    same = judge is model or judge.tokenizer_fingerprint() == model.tokenizer_fingerprint()
    documents, lengths, owners = [], [], []
    for place, question in enumerate(asked):
        prompt = prompt_tokens(judge, question, place + 1)
        for text, tokens in zip(written.texts[place], written.tokens[place]):
            new = tokens if same else list(judge.tokenizer(text, add_special_tokens=False)["input_ids"])
            if new:
                documents.append([*prompt, *new])
                lengths.append(len(new))
                owners.append(place)
    sums = np.zeros((len(asked), 2))
    if not documents:
        raise Failure("Nothing was written, so there is nothing to score.")
    longest = max(map(len, documents))
    window = min(longest, judge.context_length or longest)
    wanted = [range(max(1, len(ids) - length), len(ids)) for ids, length in zip(documents, lengths)]
    losses = token_losses(judge.network, documents, window=window, stride=max(1, window // 2), wanted=wanted)
    for nats, owner in zip(losses, owners):
        sums[owner] += nats.sum(dtype=np.float64), len(nats)
    if not np.isfinite(sums).all():
        raise Failure("The judge's scores are not numbers.", "Check its weights.")
    return sums


@dataclass(frozen=True)
class Counted:
    """What one way of decoding came to.

    Attributes:
        figures: Everything that is counted, by name.
        firsts: The first answer to each prompt.
        tokens_per_second: New tokens a second of all samples together.
    """

    figures: dict[str, Figure]
    firsts: list[str]
    tokens_per_second: float


class Comparing(Step):
    """Base of the steps that let the current model answer the same prompts in one way after the other."""

    prompts: list[str] | str = "builtin:prompts"
    """Prompts, or a data set of prompts."""

    limit: int | None = Field(16, ge=1)
    """Use only the first so many prompts; null uses all."""

    chat: bool = True
    """Ask through the model's chat template; otherwise the prompt is simply continued."""

    max_new_tokens: int = Field(48, ge=1)
    """Most tokens of an answer."""

    batch_size: int = Field(16, ge=1)
    """Answers at once; the speed depends on it, nothing else."""

    judge: str | None = None
    """Under which model perplexity is taken: an earlier step's name or a reference; by default the model itself."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hash of the prompts, where they come from a data set, and the judge."""
        if self.judge is not None and self.judge not in context.keys:
            resolve(self.judge)  # one that there isn't is refused before any work
        found: dict[str, Any] = {"judge": stamp(self.judge, context)} if self.judge else {}
        return found | hash_of_prompts(self.prompts)

    def asked(self) -> list[str]:
        """The prompts."""
        return read_prompts(self.prompts)[: self.limit]

    def count(
        self,
        context: Context,
        ways: Mapping[Name, tuple[Search, Sequence[LogitsProcessor]]],
        samples: int,
        title: str,
        unit: str,
    ) -> dict[Name, Counted]:
        """Write in each way and count.

        Args:
            context: Of the step.
            ways: How tokens are chosen and what changes the distribution before, by name.
            samples: Answers to each prompt.
            title: What the progress is called.
            unit: Of what it counts the ways.
        """
        asked, model, judge = questions(self.asked(), self.chat), context.model, judge_of(self.judge, context)
        found: dict[Name, Counted] = {}
        with task(title, total=len(ways), unit=unit) as progress:
            for name, (search, processors) in progress.over(ways.items()):
                written = write(
                    model,
                    asked,
                    samples,
                    search=search,
                    processors=processors,
                    max_new_tokens=self.max_new_tokens,
                    batch_size=self.batch_size,
                    seed=context.seed,
                )
                firsts = [answers[0] for answers in written.texts]
                found[name] = Counted(figures(written, asked, model, judge), firsts, written.tokens_per_second)
        return found


def intervals_view(first: str, rows: Sequence[dict[str, Any]]) -> View:
    """The intervals of all figures as a table, a row each; what `first` names stands in front."""
    between = list(rows[0]["intervals"])
    heads = [first, *(LABELS.get(key, key) for key in between)]
    return table("95 % intervals", heads, [[row[first], *(row["intervals"][key] for key in between)] for row in rows])


def trade_off_view(rows: Mapping[str, dict[str, Any]]) -> View:
    """Perplexity over Self-BLEU, a point a way."""
    points = {name: (row["self_bleu"], row["perplexity"]) for name, row in rows.items()}
    heads = ("Self-BLEU (lower is more varied)", "perplexity (lower is more fluent)")
    return scatter("Quality against variety", *heads, points)
