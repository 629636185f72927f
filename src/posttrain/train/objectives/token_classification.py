"""Token classification: a tag for each word, as in named-entity recognition (Tjong Kim Sang and De Meulder, 2003).

The words of a sentence are joined by blanks and tokenized as text; the first token of a word carries its tag, the
others no loss (Devlin et al., 2019, section 5.3). Where tags mark spans (B-PER, I-PER, O), precision, recall and F1 are
those of whole spans. A word that gives no token is left out, and said so. Left out: conditional random fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch.nn import functional

from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.core.events import message
from posttrain.data.dataset import Dataset
from posttrain.data.encoded import Encoded
from posttrain.data.packing import IGNORED, Packed, pack
from posttrain.data.record import Tagged, kind_of
from posttrain.models.forward import hidden_states, layer_states
from posttrain.models.heads import give_head, has_head, label_names, token_scores
from posttrain.ops.spans import SpanCounts, count_spans, mark_spans
from posttrain.train.objectives import Encoding, Prediction, Supervised

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel

_BATCH = 1000  # sentences tokenized at once


@dataclass(frozen=True)
class TaggedPack(Packed):
    """Packed sentences with the names of the tags; the extra `tag` is each token's, [T], -100 where there is none."""

    names: tuple[str, ...] = ()


class TokenClassification(Supervised):
    """Cross-entropy on the tag of each word's first token."""

    unit: ClassVar[str] = "nats a tag"
    rising: ClassVar[frozenset[str]] = frozenset({"accuracy", "f1", "precision", "recall"})

    strict: bool = False
    """Take no span that doesn't begin with B (IOB2); otherwise any change of kind begins one, as conlleval has it."""

    def prepare(self, model: LanguageModel, dataset: Dataset) -> None:
        """Give the network a head with one output a tag.

        Raises:
            BadRequest: If tags are of mixed kinds or all alike, or the network has a head for others.
        """
        tags: dict[int | str, Tagged] = {}
        for record in _tagged(dataset):
            for tag in record.tags:
                tags.setdefault(tag, record)
        kinds = {type(tag): (tag, record) for tag, record in tags.items()}
        if len(kinds) > 1:
            (a, first), (b, second) = kinds.values()
            raise BadRequest(f"{second.origin}: the tag {b!r} isn't of the kind of {a!r} in {first.origin}.")
        if len(tags) < 2:
            raise BadRequest(
                f"All words of {dataset.source} have the tag {next(iter(tags))!r}, so there is nothing to tell apart.",
                "Look at the data; a `limit` may have cut off all others.",
            )
        names = [str(tag) for tag in sorted(tags)]  # type: ignore[type-var]
        if has_head(model.network, "token_classification"):
            own = label_names(model.network)
            # Whole numbers may be the indices of tags that the model knows by name; a set may lack some of the tags.
            if set(names) <= set(own) or sorted(names) == sorted(map(str, range(len(own)))):
                names = own
        give_head(model, "token_classification", names)

    def encode(self, dataset: Dataset, model: LanguageModel, encoding: Encoding) -> list[Encoded]:
        """Sentences as tokens with the index of each one's tag; ``too_long="split"`` makes windows of whole words.

        Raises:
            BadRequest: If a tag isn't one of the network's, or a sentence is too long or gives no token.
        """
        records = _tagged(dataset)
        names = tuple(label_names(model.network))
        indices = {name: index for index, name in enumerate(names)}
        sentences = [_Sentence(record, [_index(tag, record, indices) for tag in record.tags]) for record in records]
        items, skipped, cut, lost = [], [], [], 0
        for start in range(0, len(sentences), _BATCH):
            batch = sentences[start : start + _BATCH]
            for sentence, item in zip(batch, _encoded(batch, model, names)):
                parts = _fit(sentence, item, model, encoding, names)
                skipped += [] if parts else [item.origin]
                lost += len(sentence.tags) - sum(tag != IGNORED for tag in item.extras["tag"])
                if encoding.too_long == "truncate" and parts != [item]:
                    cut.append(item.origin)
                items += parts
        for origins, what in ((skipped, "left out, longer than"), (cut, "cut to")):
            if origins:
                text = f"{len(origins)} of {len(records)} sentences {what} max_length={encoding.max_length}"
                message(f"{text} (first: {origins[0]}).", level="warning")
        if lost:
            message(f"{lost} words give no token and are left out.", level="warning")
        if not items:
            raise BadRequest(f"All {len(records)} sentences are longer than max_length={encoding.max_length}.")
        return items

    def collate(self, items: Sequence[Encoded]) -> TaggedPack:
        """Packed, with the tags' names."""
        packed = pack([replace(item, extras={"tag": item.extras["tag"]}) for item in items])
        return TaggedPack(
            packed.input_ids, packed.targets, packed.boundaries, packed.extras, tuple(items[0].extras["names"])
        )

    def weight(self, batch: TaggedPack) -> float:
        """Number of tagged words."""
        return float((batch.extras["tag"] != IGNORED).sum())

    def predict(self, network: PreTrainedModel, batch: TaggedPack, *, layers: bool = False) -> Prediction:
        """The scores that the network's own class gives at the first token of each word."""
        if layers:
            states = layer_states(network, batch.input_ids, batch.boundaries)
        else:
            states = [hidden_states(network, batch.input_ids, batch.boundaries)]  # [T, H]
        scores = token_scores(network, states[-1], batch.input_ids)
        tags = batch.extras["tag"]
        first = tags != IGNORED
        return Prediction(
            tags[first], scores.hidden[first], logits=scores.logits[first], layers=states if layers else None
        )

    def loss_of(self, prediction: Prediction, batch: TaggedPack) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss summed over the words; words that are right and counts of spans."""
        assert prediction.logits is not None
        value = functional.cross_entropy(prediction.logits.float(), prediction.targets, reduction="sum")
        predicted = prediction.logits.detach().argmax(1)
        sums = {"accuracy": float((predicted == prediction.targets).sum())}
        if mark_spans(batch.names):
            words = torch.bincount(batch.segment_ids[batch.extras["tag"] != IGNORED], minlength=batch.segments).tolist()
            ours, theirs = (
                [[batch.names[i] for i in part.tolist()] for part in values.split(words)]
                for values in (predicted, prediction.targets)
            )
            sums |= {f"span/{name}": float(n) for name, n in vars(count_spans(ours, theirs, self.strict)).items()}
        return value, sums

    def summarize(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        """Mean loss and accuracy a word; precision, recall and F1 of spans, where tags mark them."""
        means = {"loss": sums["loss"] / weight, "accuracy": sums["accuracy"] / weight}
        counts = {name.removeprefix("span/"): int(n) for name, n in sums.items() if name.startswith("span/")}
        if counts:
            found = SpanCounts(**counts)
            means |= {"precision": found.precision, "recall": found.recall, "f1": found.f1}
        return means

    def baseline(self, items: Sequence[Encoded]) -> dict[str, float]:
        """Always the most frequent tag."""
        tags = Counter(tag for item in items for tag in item.extras["tag"] if tag != IGNORED)
        names: Sequence[str] = items[0].extras["names"]
        tag, count = tags.most_common(1)[0]
        found = {"accuracy": count / sum(tags.values())}
        if not mark_spans(names):
            return found
        actual = [[names[tag] for tag in item.extras["tag"] if tag != IGNORED] for item in items]
        constant = [[names[tag]] * len(sentence) for sentence in actual]
        return {"f1": count_spans(constant, actual, self.strict).f1, **found}


@dataclass(frozen=True)
class _Sentence:
    """A record with the indices of its tags."""

    record: Tagged
    tags: list[int]

    def part(self, start: int, end: int) -> _Sentence:
        """Some of its words."""
        record = replace(self.record, tokens=self.record.tokens[start:end], tags=self.record.tags[start:end])
        return _Sentence(record, self.tags[start:end])


def _tagged(dataset: Dataset) -> list[Tagged]:
    other = next((record for record in dataset.records if not isinstance(record, Tagged)), None)
    if other is not None:
        raise BadRequest(
            f"{other.origin}: a {kind_of(other)} record has no tags.",
            "Tagging takes tokens + tags records; name the columns, as in columns: {tokens: WORDS, tags: TAGS}.",
        )
    return cast("list[Tagged]", dataset.records)


def _index(tag: int | str, record: Tagged, indices: dict[str, int]) -> int:
    if str(tag) in indices:
        return indices[str(tag)]
    if isinstance(tag, int) and 0 <= tag < len(indices) and not any(name.isdecimal() for name in indices):
        return tag
    raise BadRequest(f"{record.origin}: the tag {tag!r} isn't one of the model's.", did_you_mean(str(tag), indices))


def _encoded(sentences: Sequence[_Sentence], model: LanguageModel, names: tuple[str, ...]) -> list[Encoded]:
    """Sentences of any length as tokens; in each, the first token that reaches into a word has its tag."""
    texts = [" ".join(sentence.record.tokens) for sentence in sentences]
    batch = model.tokenizer(
        texts,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    items = []
    for sentence, ids, offsets in zip(sentences, batch["input_ids"], batch["offset_mapping"]):
        tags = _first_tokens(sentence, offsets)
        if all(tag == IGNORED for tag in tags):
            raise BadRequest(f"{sentence.record.origin}: the words give no token.", "Remove the sentence.")
        extras = {"tag": tags, "names": names}
        items.append(Encoded(ids, [False] * len(ids), sentence.record.origin, extras))
    return items


def _first_tokens(sentence: _Sentence, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The tag of each token, -100 for all but the first ones of words. Offsets (start, end) are those in the text."""
    ends = list(accumulate(sentence.record.tokens, lambda end, word: end + 1 + len(word), initial=-1))[1:]
    begins = [end - len(word) for end, word in zip(ends, sentence.record.tokens)]
    tags, word = [], 0  # the first word that has no token yet
    for start, end in offsets:
        while word < len(ends) and ends[word] <= max(start, begins[word]):
            word += 1  # it gave none
        reaches = end > start and word < len(ends) and begins[word] < end  # special tokens have no characters
        tags.append(sentence.tags[word] if reaches else IGNORED)
        word += reaches
    return tags


def _fit(
    sentence: _Sentence, item: Encoded, model: LanguageModel, encoding: Encoding, names: tuple[str, ...]
) -> list[Encoded]:
    """The sequences to use in place of one that may be too long; none if it is skipped."""
    limit = encoding.max_length
    if limit is None or len(item) <= limit:
        return [item]
    if encoding.too_long == "skip":
        return []
    if encoding.too_long == "error":
        raise BadRequest(
            f"{item.origin}: {len(item)} tokens, but max_length is {limit}.",
            "Raise max_length, or decide with --set encoding.too_long=… (truncate, skip or split).",
        )
    parts, start = [], 0
    while start < len(sentence.tags):
        end = _last_word(sentence, start, limit, model, names)
        if end == start:
            raise BadRequest(f"{item.origin}: the word {sentence.record.tokens[start]!r} alone is over max_length.")
        parts += _encoded([sentence.part(start, end)], model, names)
        start = end
        if encoding.too_long == "truncate":
            break
    return parts


def _last_word(sentence: _Sentence, start: int, limit: int, model: LanguageModel, names: tuple[str, ...]) -> int:
    """How far words from `start` on fit into `limit` tokens, special ones included; by bisection."""
    low, high = start, len(sentence.tags)
    while low < high:
        middle = (low + high + 1) // 2
        if len(_encoded([sentence.part(start, middle)], model, names)[0]) <= limit:
            low = middle
        else:
            high = middle - 1
    return low
