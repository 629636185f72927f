"""Text from a model: prompts in, texts out, with what each token cost and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.core.errors import BadRequest
from posttrain.core.events import task
from posttrain.decode.engine import Engine
from posttrain.decode.job import Job
from posttrain.decode.processors import LogitsProcessor
from posttrain.decode.search import Search
from posttrain.decode.sequence import Ending, FinishReason, Generated, Prompt

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel


@dataclass(frozen=True)
class Generation:
    """One continuation.

    Attributes:
        prompt: The prompt as it was given.
        text: The new text, without special tokens, cut before a stop string.
        token_ids: The new tokens, with the end-of-text token or the tokens of the stop string that ended them.
        logprob: Sum of `logprobs`.
        logprobs: Natural log-probability of each new token under the model's own distribution, before any processor.
        finish_reason: ``eos`` (end-of-text token), ``stop`` (stop string) or ``length`` (max_new_tokens).
        sample: Which of its prompt's continuations it is; 0 is the best one where the search ranks them.
        score: What the search ranked it by, higher is better; None if it doesn't rank.
    """

    prompt: Prompt
    text: str
    token_ids: list[int]
    logprob: float
    logprobs: list[float]
    finish_reason: FinishReason
    sample: int = 0
    score: float | None = None


@dataclass(frozen=True)
class Generations:
    """All continuations of a call, prompt by prompt.

    Attributes:
        generations: In the order of the prompts; several a prompt if the search makes several.
        prefill_seconds: Time spent reading prompts.
        decode_seconds: All the rest.
        new_tokens: Number of tokens generated.
    """

    generations: list[Generation]
    prefill_seconds: float
    decode_seconds: float
    new_tokens: int

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second of decoding."""
        return self.new_tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0


def generate(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    search: Search,
    processors: Sequence[LogitsProcessor] = (),
    max_new_tokens: int = 128,
    stop: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 16,
    chat: bool = False,
    ignore_eos: bool = False,
    on_text: Callable[[int, str], None] | None = None,
) -> Generations:
    """Continue prompts.

    Args:
        model: A causal language model.
        prompts: Texts, message lists (put through the tokenizer's chat template) or token ids.
        search: How tokens are chosen.
        processors: Applied to the scores in this order, before those of the search.
        max_new_tokens: Most tokens for each continuation.
        stop: Strings that end a continuation; they aren't part of its text.
        seed: Of the random draws; each continuation has its own generator derived from it.
        batch_size: Most sequences in work at a time, which have several rows each in some searches; it doesn't change
            the outcome.
        chat: Take each text as one message of a user.
        ignore_eos: Go on after the end-of-text token.
        on_text: Called with a continuation's index and its new text, as soon as the text is certain.

    Raises:
        BadRequest: If the model doesn't generate, a prompt is empty and there is no token to begin with, a prompt and
            `max_new_tokens` don't fit the model's context, or messages are given and there is no chat template.
        Failure: If the model's scores aren't numbers.
    """
    if not model.is_causal:
        raise BadRequest(f"{type(model.network).__name__} doesn't generate text.", "Use a causal language model.")
    if isinstance(prompts, str):
        raise BadRequest("The prompts must be a list, not one text.", "Put the text into a list.")
    if max_new_tokens < 1 or batch_size < 1:
        raise BadRequest("max_new_tokens and batch_size must be at least 1.")
    asked = [[{"role": "user", "content": p}] if chat and isinstance(p, str) else p for p in prompts]
    tokens = [prompt_tokens(model, prompt, number) for number, prompt in enumerate(asked, 1)]
    _check_lengths(model, tokens, max_new_tokens)
    engine = Engine(model)
    with task("Generate", total=len(tokens) * max_new_tokens, unit="tokens") as progress, engine.running():
        job = Job(
            engine=engine,
            prompts=tokens,
            processors=processors,
            ending=_ending(model, stop, max_new_tokens, ignore_eos),
            batch_size=batch_size,
            seed=seed,
            task=progress,
            listener=on_text,
            given=asked,
        )
        start = time.perf_counter()
        sequences = sorted(search.run(job), key=lambda s: (s.prompt_index, s.sample))
        seconds = time.perf_counter() - start
    return Generations(
        generations=[_generation(prompts[s.prompt_index], s) for s in sequences],
        prefill_seconds=engine.prefill_seconds,
        decode_seconds=seconds - engine.prefill_seconds,
        new_tokens=sum(len(s.tokens) for s in sequences),
    )


def _generation(prompt: Prompt, sequence: Generated) -> Generation:
    assert sequence.finish_reason is not None
    return Generation(
        prompt=prompt,
        text=sequence.text,
        token_ids=sequence.tokens,
        logprob=sum(sequence.logprobs),
        logprobs=sequence.logprobs,
        finish_reason=sequence.finish_reason,
        sample=sequence.sample,
        score=sequence.score,
    )


def prompt_tokens(model: LanguageModel, prompt: Prompt, number: int = 1) -> list[int]:
    """Token ids of a prompt; `number` counts from 1, for messages."""
    tokenizer = model.tokenizer
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
    elif prompt and isinstance(prompt[0], dict):
        if not tokenizer.chat_template:
            raise BadRequest(
                f"Prompt {number} is a conversation, but the model's tokenizer has no chat template.",
                "Give plain text, or use a chat model.",
            )
        answered = prompt[-1].get("role") == "assistant"  # then the answer's beginning is given
        text = tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=not answered, continue_final_message=answered
        )
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    else:
        ids = list(prompt)  # type: ignore[arg-type]
    if ids:
        return ids
    if tokenizer.bos_token_id is None:
        raise BadRequest(f"Prompt {number} is empty, and the model has no token to begin with.", "Give it some text.")
    return [tokenizer.bos_token_id]


def _check_lengths(model: LanguageModel, prompts: Sequence[list[int]], max_new_tokens: int) -> None:
    limit = model.context_length
    if limit is None:
        return
    for number, prompt in enumerate(prompts, 1):
        if len(prompt) + max_new_tokens > limit:
            raise BadRequest(
                f"Prompt {number} has {len(prompt)} tokens; with {max_new_tokens} new ones that is more than the "
                f"{limit} tokens of the model's context.",
                "Shorten the prompt or lower max_new_tokens.",
            )


def _ending(model: LanguageModel, stop: Sequence[str], max_new_tokens: int, ignore_eos: bool) -> Ending:
    """When sequences end: the end-of-text tokens the model and its tokenizer name, and the user's wishes."""
    if isinstance(stop, str) or not all(stop):
        raise BadRequest("stop must be a list of texts, none of them empty.")
    tokenizer = model.tokenizer
    special = [text for text in stop if text in tokenizer.all_special_tokens]
    stop_ids = tokenizer.convert_tokens_to_ids(special)
    assert isinstance(stop_ids, list)
    eos_ids: set[int] = set()
    if not ignore_eos:
        generation_config = getattr(model.network, "generation_config", None)
        for named in (getattr(generation_config, "eos_token_id", None), tokenizer.eos_token_id):
            eos_ids.update(named if isinstance(named, (list, tuple)) else [] if named is None else [named])
    return Ending(
        max_new_tokens=max_new_tokens,
        eos_ids=frozenset(eos_ids),
        stop_ids=frozenset(stop_ids),
        stop=tuple(text for text in stop if text not in special),
    )
