"""How alike a model finds two texts: the cosine of their embeddings, to be correlated with people's ratings.

A text's embedding is the mean of its tokens' last states, special tokens included, as sentence encoders are trained
(Reimers and Gurevych, Sentence-BERT, 2019). Any model has one: an encoder of sentences (minilm) is the natural choice,
a causal model's is rarely good. The ratings make sense only over all items together, so the task names its metrics
under `corpus_metrics`: `pearson`, `spearman` (STS-B: Cer et al., 2017). Left out: solved examples, and other pooling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional

from posttrain.bench.item import Expression, Item, Template
from posttrain.bench.question import Question, Solved
from posttrain.bench.task_types import Effort, Reply, TaskType
from posttrain.core.errors import BadRequest, Failure
from posttrain.core.events import task
from posttrain.models.forward import hidden_states, takes
from posttrain.models.language_model import LanguageModel


class Similarity(TaskType):
    """Compare the embeddings of two texts."""

    first: Template
    """One text, a template."""

    second: Template
    """The other, a template."""

    answer: Expression
    """How alike people find them, an expression that gives a number."""

    @property
    def measured(self) -> tuple[str, ...]:
        """No score of a single item."""
        return ()

    def solved(self, item: Item) -> Solved:
        """There are no solved examples.

        Raises:
            BadRequest: Always.
        """
        raise BadRequest(f"{item.task}: texts are embedded as they are, so there can be no examples.")

    def ask(self, model: LanguageModel, questions: Sequence[Question], effort: Effort) -> list[Reply]:
        """Embed each different text once and compare."""
        pairs = [(q.context(q.item.text(self.first, "first")), q.item.text(self.second, "second")) for q in questions]
        ratings = [self._rating(q.item) for q in questions]
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        embeddings, cut = _embeddings(model, texts, effort.tokens_per_pass)
        place = {text: number for number, text in enumerate(texts)}
        replies = []
        for (first, second), rating in zip(pairs, ratings):
            a, b = place[first], place[second]
            cosine = float(embeddings[a] @ embeddings[b])
            record = {"first": first, "second": second, "cosine": cosine, "answer": rating}
            replies.append(Reply({}, record, None, max(cut[a], cut[b]), repr(cosine), [repr(rating)]))
        return replies

    def _rating(self, item: Item) -> float:
        rating = item.value(self.answer, "answer")
        try:
            found = float(rating)
        except (TypeError, ValueError):
            found = math.nan
        if not math.isfinite(found):
            raise item.problem("answer", f"{rating!r} is no number")
        return found


def _embeddings(model: LanguageModel, texts: Sequence[str], tokens_per_pass: int) -> tuple[torch.Tensor, list[int]]:
    """Embeddings of length 1, [texts, H] float32, and how many tokens of each text the model couldn't read."""
    limit = min(model.tokenizer.model_max_length, model.context_length or model.tokenizer.model_max_length)
    whole: list[list[int]] = model.tokenizer(list(texts), verbose=False)["input_ids"]
    ids = [each[:limit] for each in whole]
    if empty := [text for text, each in zip(texts, ids) if not each]:
        raise BadRequest(f"A text without any tokens has no embedding: {empty[0]!r}.")
    found: list[torch.Tensor] = []
    with torch.inference_mode(), task("Embeddings", total=len(texts), unit="texts") as progress:
        for batch in _batches(ids, tokens_per_pass):
            flat = torch.tensor([token for each in batch for token in each], device=model.device)
            lengths = torch.tensor([0, *map(len, batch)], device=model.device)
            types = {"token_type_ids": torch.zeros_like(flat)} if takes(model.network, "token_type_ids") else {}
            states = hidden_states(model.network, flat, lengths.cumsum(0), **types).float()
            found += [part.mean(0) for part in states.split([len(each) for each in batch])]
            progress.advance(len(batch))
    embeddings = functional.normalize(torch.stack(found), dim=-1).cpu()
    if not embeddings.isfinite().all():
        raise Failure("The model's states are not numbers (NaN).", "Check its weights, or load it in float32.")
    return embeddings, [len(each) - len(read) for each, read in zip(whole, ids)]


def _batches(ids: Sequence[list[int]], tokens: int) -> Iterator[list[list[int]]]:
    """Consecutive texts of together so many tokens at most, but at least one."""
    batch: list[list[int]] = []
    for each in ids:
        if batch and sum(map(len, batch)) + len(each) > tokens:
            yield batch
            batch = []
        batch.append(each)
    yield batch
