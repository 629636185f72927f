"""align: change a model by preferences or rewards, or train the judge that gives rewards."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from posttrain.adapt import trainable_share
from posttrain.align.objectives import Plan
from posttrain.align.reward import Reward
from posttrain.align.reward_ensemble import Ensemble, EnsembleReward
from posttrain.align.rollout import Prompt, answered, encode_prompts, kl_of_answers, sample_answers
from posttrain.core import events, runtime
from posttrain.core.catalog import block, term_of
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.encoded import Encoded
from posttrain.models import scalar_head
from posttrain.models.heads import task_head
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.steps import Context, Outcome
from posttrain.pipeline.steps._learning import (
    Learning,
    hashes,
    part_held_out,
    save_learned,
    stamp,
    told_if_unmergeable,
)
from posttrain.pipeline.steps._rewards import named_reward
from posttrain.pipeline.views import View, curve, facts, note, samples
from posttrain.train.loop import TrainResult, evaluate, train


class Align(Learning):
    """Align the current model, or train a reward model."""

    objective: block("align")  # type: ignore[valid-type]
    """How, as in {dpo: {beta: 0.1}}."""

    data: str | None = None
    """Preference pairs or prompts: a file, hub:owner/name or builtin:NAME; built-in data when not given."""

    validation: str | None = None
    """Held-out pairs; when not given, some of the data are held out."""

    held_out: float = Field(0.1, ge=0, lt=1)
    """Share of the pairs that is held out where no validation is given."""

    reward: str | list[str] | None = None
    """Scores answers: a reward model (an earlier step's name or a folder), or module:function; several as a list."""

    ensemble: Ensemble = Ensemble()
    """How the scores of several rewards become one."""

    episodes: int | None = Field(None, ge=1)
    """Sampled answers, or pairs, to learn from; when not given, one pass over the data."""

    max_new_tokens: int = Field(48, ge=1)
    """Most tokens of a sampled answer."""

    evaluation_prompts: int = Field(16, ge=1)
    """How many prompts are answered before and after, for rewards, KL and samples."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of data and reward."""
        found = hashes({"data": self._records, "validation": self._validation})
        for number, name in enumerate(self.reward_names):
            found["reward" if isinstance(self.reward, str) else f"reward_{number}"] = stamp(name, context)
        return found

    @property
    def reward_names(self) -> list[str]:
        """Names or references of the rewards."""
        return [self.reward] if isinstance(self.reward, str) else list(self.reward or [])

    @cached_property
    def _records(self) -> dataset.Dataset:
        source = self.data or self.objective.default_data
        return dataset.read(source, columns=self.columns, limit=self.limit, lines=self.objective.samples_policy)

    @cached_property
    def _validation(self) -> dataset.Dataset | None:
        return dataset.read(self.validation, columns=self.columns) if self.validation else None

    def run(self, context: Context) -> Outcome:
        """Judge, align, judge again."""
        if self.objective.samples_policy and not self.reward_names:
            raise BadRequest("Sampled answers need a reward.", "Give `reward`: a reward model or module:function.")
        if "ensemble" in self.model_fields_set and len(self.reward_names) < 2:
            raise BadRequest("`ensemble` combines several rewards.", "List them, as in reward: [first, second].")
        context = self._seeded(context)
        model = context.model
        if model.adapter is not None:
            raise BadRequest(
                f"{context.model_name} still carries an adapter.", "Put a `merge` step before aligning it."
            )
        self._refuse_classifier(context.model_name, model)
        work = _Work(self, context, model, self._reward(context, model))
        work.judge("before")
        work.train()
        work.judge("after")
        return work.outcome()

    def _refuse_classifier(self, name: str, model: LanguageModel) -> None:
        """Refuse a network that has a head for labels, or that can't write where answers are wanted of it."""
        head = next(iter(task_head(model.network)), None)
        if head is not None or (self.objective.makes_policy and not model.network.can_generate()):
            what = f"has a head for labels, `{head}`" if head else "doesn't continue texts"
            raise BadRequest(
                f"{name} is a {type(model.network).__name__}, which {what}; `align` needs a language model.",
                "Start from the language model it was made of, as in from: base.",
            )

    def _reward(self, context: Context, model: LanguageModel) -> Reward | None:
        """The reward or the ensemble, loaded while the policy is still as it was."""
        frozen = None if self.adapt.in_place else model.network
        members = [
            named_reward(name, context, model, shared=frozen, tokens_per_pass=self.tokens_per_pass)
            for name in self.reward_names
        ]
        return EnsembleReward(members, self.ensemble) if len(members) > 1 else next(iter(members), None)


class _Work:
    """One run of the step: what is measured before and after, and the training between."""

    def __init__(self, step: Align, context: Context, model: LanguageModel, reward: Reward | None) -> None:
        self.step, self.context, self.model, self.reward = step, context, model, reward
        self.objective = step.objective
        self.room: int | None = None  # tokens of a prompt beside which an answer fits
        limit = step.encoding.max_length or model.context_length
        if self.objective.makes_policy and model.context_length is not None:
            self.room = model.context_length - step.max_new_tokens
            if self.room < 1:
                raise BadRequest(
                    f"Answers of {step.max_new_tokens} tokens leave no room for a prompt in the model's context of "
                    f"{model.context_length}.",
                    "Lower max_new_tokens.",
                )
            limit = min(limit or self.room, self.room) if self.objective.samples_policy else limit
        self.encoding = step.encoding.model_copy(update={"max_length": limit})
        learned, held = self._parts()
        self.items = self._encode(learned)
        self.held = None if held is None else self._encode(held)
        for items in (self.items, self.held or []):
            if items:
                self.objective.annotate(model.network, items, step.tokens_per_pass)
        self.prompts = self._prompts(held or learned)
        self.numbers: dict[str, dict[str, float]] = {}
        self.texts: dict[str, list[str]] = {}
        step.adapt.apply(model.network)
        if self.objective.head:
            head = scalar_head.attach(model.network, self.objective.head)
            dialogues = (not isinstance(getattr(record, "prompt", ""), str) for record in learned.records)
            head.chat = bool(step.encoding.chat) or any(dialogues)
        self.trainable, self.share = trainable_share(model.network)
        self.told = told_if_unmergeable(model.network)

    def _parts(self) -> tuple[dataset.Dataset, dataset.Dataset | None]:
        """What is learned from, and the pairs that are held out."""
        records, given = self.step._records, self.step._validation
        if self.objective.samples_policy or given is not None:
            return records, given
        indices = part_held_out(len(records), self.step.held_out, self.context.seed)
        if not indices[1]:
            return records, None
        chosen = [[records[i] for i in part] for part in indices]
        learned, held = (dataset.Dataset(part, records.kind, records.source, records.columns) for part in chosen)
        return learned, held

    def _encode(self, records: dataset.Dataset) -> list[Encoded]:
        items: list[Encoded] = self.objective.encode(records, self.model, self.encoding)
        return items

    def _prompts(self, records: dataset.Dataset) -> list[Prompt]:
        """The prompts that are answered before and after."""
        if not self.objective.makes_policy:
            return []
        encoding = self.encoding.model_copy(update={"max_length": self.room, "too_long": "truncate"})
        first = dataset.Dataset(records.records[: self.step.evaluation_prompts], records.kind, records.source)
        return encode_prompts(first, self.model.tokenizer, encoding)

    def judge(self, when: str) -> None:
        """Measure held-out pairs, and the rewards and the KL of sampled answers."""
        found: dict[str, float] = {}
        if not self.objective.samples_policy:
            items = self.held if self.held is not None else self.items
            passes = (batch.to(self.model.device) for batch in self.step._passes(items, self.objective))
            found |= evaluate(self.model.network, self.objective, passes)
            found["reward"] = found[self.objective.margin]
        if self.prompts:
            answers = sample_answers(self.model, self.prompts, self.step.max_new_tokens, self.context.seed)
            self.texts[when] = [answer.text for answer in answers]
            if self.reward is not None:
                judged = self.reward.judge([prompt.source for prompt in self.prompts], self.texts[when])
                found["reward"] = sum(judged.scores) / len(judged.scores)
                if judged.disagreement is not None:
                    found["disagreement"] = judged.disagreement
            if when == "after":
                items = [answered(prompt, answer.token_ids) for prompt, answer in zip(self.prompts, answers)]
                found |= self._kl(items)
        self.numbers[when] = found

    def _kl(self, items: list[Encoded]) -> dict[str, float]:
        try:
            each = kl_of_answers(self.model, self.step.adapt, items, self.step.tokens_per_pass)
        except BadRequest as error:  # a method that didn't keep the base's weights
            events.message(f"The KL from the base isn't measured: {error.problem}", level="warning")
            return {}
        return {"kl": sum(each) / len(each)}

    def train(self) -> None:
        """Run the one loop."""
        step, objective = self.step, self.objective
        if step.steps and step.episodes:
            raise BadRequest("Both steps and episodes are given.", "Give one of them.")
        episodes = step.episodes or (step.steps * step.batch_size if step.steps else len(self.items))
        plan = Plan(
            adapter=step.adapt,
            batch_size=step.batch_size,
            tokens_per_pass=step.tokens_per_pass,
            seed=self.context.seed,
            max_new_tokens=step.max_new_tokens,
            episodes=episodes,
            reward=self.reward,
            autocast=step.autocast,
        )
        steps = step.steps or objective.steps_for(episodes, step.batch_size)
        self.batches = objective.batches(self.model, self.items, plan)
        self.result = train(
            self.model.network,
            objective,
            self.batches,
            step._settings_of_loop(steps, objective.rising),
            parts={term_of(step.adapt): step.adapt},
            checkpoint=self.context.folder / "checkpoint",
            name="Align",
        )

    def outcome(self) -> Outcome:
        """Numbers, views and the model."""
        head = scalar_head.detach(self.model.network, self.objective.head) if self.objective.head else None
        if self.step.adapt.in_place:
            self.step.adapt.merge(self.model.network)
        else:
            self.model.adapter = self.step.adapt
        rollouts: list[dict[str, float]] = getattr(self.batches, "history", [])
        numbers = self._result(rollouts)

        def save(folder: Path) -> None:
            save_learned(self.model, folder)
            if head is not None and self.objective.keeps_head:
                scalar_head.save(head, folder, self.objective.head)

        return Outcome(numbers, self._views(numbers, rollouts), self.model, save, _headline(numbers))

    def _result(self, rollouts: list[dict[str, float]]) -> dict[str, Any]:
        before, after, result = self.numbers["before"], self.numbers["after"], self.result
        learned = rollouts[-1]["episodes"] if rollouts else len(result.history) * self.step.batch_size
        numbers: dict[str, Any] = {
            "reward_before": before.get("reward"),
            "reward_after": after.get("reward"),
            "kl": after.get("kl"),
            "episodes": int(learned),
            "episodes_per_minute": learned / result.seconds * 60,
            "loss": result.loss,
            "first_loss": result.history[0]["loss"],
            "steps": len(result.history),
            "stopped_early": result.stopped_early,
            "tokens": result.tokens,
            "seconds": result.seconds,
            "peak_memory_mb": runtime.peak_memory_mb(),
            "device_memory_mb": runtime.device_memory_mb(),
            "trainable_parameters": self.trainable,
            "trainable_share": self.share,
            "history": result.history,
            "rollouts": rollouts,
        }
        if "disagreement" in before:
            # How much the rewards differ about an answer: their standard deviation, averaged over the answers.
            for when, found in self.numbers.items():
                numbers[f"disagreement_{when}"] = found["disagreement"]
        if not self.objective.samples_policy:
            for key in ("loss", "margin", "accuracy", "calibration_error"):
                numbers[f"pairs_{key}_before"], numbers[f"pairs_{key}_after"] = before[key], after[key]
            numbers["accuracy"] = after["accuracy"]
            numbers["pairs_measured"] = len(self.held if self.held is not None else self.items)
            numbers["pairs_held_out"] = self.held is not None
        return numbers

    def _views(self, numbers: dict[str, Any], rollouts: list[dict[str, float]]) -> list[View]:
        views = _curves(self.result, rollouts)
        hidden = ("history", "rollouts")
        shown = {
            key.replace("_", " "): value for key, value in numbers.items() if key not in hidden and value is not None
        }
        views.append(facts("Alignment", shown))
        if self.texts:
            rows = [
                [prompt.source if isinstance(prompt.source, str) else str(prompt.source[-1]["content"]), *texts]
                for prompt, *texts in zip(self.prompts, self.texts["before"], self.texts["after"])
            ]
            title = "Answers before and after, sampled at temperature 1"
            views.append(samples(title, ["prompt", "before", "after"], rows))
        return [_told(numbers), *views, *self.told]


def _curves(result: TrainResult, rollouts: list[dict[str, float]]) -> list[View]:
    if not rollouts:
        metrics = {
            key: [(entry["step"], entry[key]) for entry in result.history]
            for key in ("margin", "accuracy")
            if key in result.history[0]
        }
        losses = {"loss": [(entry["step"], entry["loss"]) for entry in result.history]}
        return [
            curve("Loss", "step", "nats a pair", losses),
            *(curve(key.capitalize(), "step", key, {key: points}) for key, points in metrics.items()),
        ]
    return [
        curve(title, "episodes", unit, {key: [(entry["episodes"], entry[key]) for entry in rollouts]})
        for title, unit, key in (
            ("Reward of sampled answers", "reward", "reward"),
            ("KL from the reference", "nats an answer", "kl"),
            ("Disagreement of the rewards", "standard deviation", "disagreement"),
        )
        if key in rollouts[0]
    ]


def _told(numbers: dict[str, Any]) -> View:
    """What alignment came to, in a sentence."""
    if "accuracy" in numbers:
        which = "held-out pairs" if numbers["pairs_held_out"] else "pairs it learned from"
        share, count = numbers["accuracy"], numbers["pairs_measured"]
        text = f"{share:.0%} of {count} {which} are put in the right order; guessing gives 50 %."
        return note(text, "good" if share > 0.5 else "warning")
    before, after = numbers["reward_before"], numbers["reward_after"]
    moved = f", {numbers['kl']:.2g} nats an answer away from where it started" if numbers["kl"] is not None else ""
    way = "rose" if after > before else "fell" if after < before else "stayed"
    text = f"The reward of sampled answers {way} from {before:.3g} to {after:.3g}{moved}."
    return note(text, "good" if after > before else "warning")


def _headline(numbers: dict[str, Any]) -> str:
    if "accuracy" in numbers:
        told = "held-out pairs" if numbers["pairs_held_out"] else "pairs"
        return f"{numbers['accuracy']:.0%} of {told} in the right order"
    moved = f" at a KL of {numbers['kl']:.2g} nats" if numbers["kl"] is not None else ""
    return f"reward {numbers['reward_before']:.3g} → {numbers['reward_after']:.3g}{moved}"
