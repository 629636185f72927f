"""What may come next: a model's distribution over the token after a prompt, as it is and after processors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.core.errors import BadRequest, Failure
from posttrain.decode.engine import Engine
from posttrain.decode.generation import prompt_tokens
from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.ops.logprobs import entropy

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what decoding puts in place of bytes that aren't a whole character


@dataclass(frozen=True)
class Candidate:
    """A token that may come next.

    Attributes:
        token_id: Its number.
        text: Its text; the tokenizer's own name for it where the text isn't whole characters.
        probabilities: By the name of the processors.
    """

    token_id: int
    text: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class NextToken:
    """The distribution after a prompt, once for every list of processors.

    Attributes:
        candidates: The tokens that are the most probable before any processor, the first one first.
        entropies: Shannon entropy of each distribution, in nats.
        rest: Probability of all other tokens together in each.
    """

    candidates: list[Candidate]
    entropies: dict[str, float]
    rest: dict[str, float]


def next_token(
    model: LanguageModel,
    prompt: str | list[dict[str, str]],
    chains: Mapping[str, Sequence[LogitsProcessor]],
    *,
    top: int = 10,
    chat: bool = False,
) -> NextToken:
    """Look at the distribution of the token that follows a prompt.

    Args:
        model: A causal language model.
        prompt: A text, or a list of messages.
        chains: Lists of processors, each applied in its order, by a name; an empty one is the model's distribution.
        top: How many tokens to show.
        chat: Take a text as one message of a user.

    Raises:
        BadRequest: If the model doesn't generate, the prompt is longer than its context, or `top` is below one.
        Failure: If the model's scores hold NaN or +inf.
    """
    if not model.is_causal:
        raise BadRequest(f"{type(model.network).__name__} doesn't generate text.", "Use a causal language model.")
    if top < 1:
        raise BadRequest(f"top must be at least 1, not {top}.")
    asked = [{"role": "user", "content": prompt}] if chat and isinstance(prompt, str) else prompt
    tokens = prompt_tokens(model, asked)
    if model.context_length is not None and len(tokens) > model.context_length:
        raise BadRequest(
            f"The prompt has {len(tokens)} tokens, more than the {model.context_length} of the model's context."
        )
    engine = Engine(model)
    with engine.running():
        logits = engine.prefill([tokens])[1].logits  # [1, V]
        if bool((logits.isnan() | logits.isposinf()).any()):
            raise Failure("The model's scores are not numbers (NaN or infinite), so tokens have no probabilities.")
        state = DecodeState(prompts=[tokens], generated=[[]], tokenizer=model.tokenizer)
        order = logits[0].argsort(descending=True, stable=True)[:top]
        shares: dict[str, list[float]] = {}
        entropies: dict[str, float] = {}
        for name, chain in chains.items():
            scores = logits
            for processor in chain:
                scores = processor(scores, state)
            shares[name] = scores[0].double().softmax(-1)[order].tolist()
            entropies[name] = float(entropy(scores)[0])
    candidates = [
        Candidate(token, _text(model, token), {name: share[place] for name, share in shares.items()})
        for place, token in enumerate(order.tolist())
    ]
    return NextToken(candidates, entropies, {name: max(0.0, 1 - sum(share)) for name, share in shares.items()})


def _text(model: LanguageModel, token: int) -> str:
    text = model.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return str(model.tokenizer.convert_ids_to_tokens(token)) if _INCOMPLETE in text or not text else text
