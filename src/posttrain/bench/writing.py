"""What a model writes in answer to prompts, of which those that are too long lose their beginning."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.bench.likelihood import encode_texts
from posttrain.core.errors import BadRequest
from posttrain.decode.generation import generate
from posttrain.decode.search import Search
from posttrain.models.language_model import LanguageModel


def write(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    search: Search,
    max_new_tokens: int,
    stop: Sequence[str],
    batch_size: int,
) -> tuple[list[list[str]], list[int]]:
    """Let a model continue prompts.

    Args:
        model: A causal language model.
        prompts: [n], at least one.
        search: How tokens are chosen.
        max_new_tokens: Most tokens written.
        stop: Texts that end what is written, beside the model's own end of text.
        batch_size: Most texts written at once.

    Returns:
        For each prompt the texts, as many as the search gives, and how many tokens its beginning lost.

    Raises:
        BadRequest: If the model's context has no room for so many new tokens.
    """
    limit = model.context_length
    if limit is not None and limit <= max_new_tokens:
        raise BadRequest(
            f"The task lets the model write {max_new_tokens} tokens, and the model's context is {limit} long.",
            "Use a model with a longer context.",
        )
    encoded = encode_texts(model, prompts)
    cut = [0 if limit is None else max(0, len(ids) - (limit - max_new_tokens)) for ids in encoded]
    written = generate(
        model,
        [ids[left:] for ids, left in zip(encoded, cut)],
        search=search,
        max_new_tokens=max_new_tokens,
        stop=stop,
        batch_size=batch_size,
    )
    texts = [each.text for each in written.generations]
    count = len(texts) // len(prompts)
    return [texts[start : start + count] for start in range(0, len(texts), count)], cut
