"""Sequence classification: one class of several, several labels at once, or a number, for a text or a pair of texts.

A class is learned by cross-entropy, with label smoothing if wanted (Szegedy et al., 2016, section 7); several labels by
the binary cross-entropy of each, averaged over the labels; a number by its squared error. Which of them it is, the data
says: a class is a name or a whole number, several labels are a list, a number to predict is a float. The network
becomes transformers' own class for the task, on encoders and decoders alike; texts are packed without padding. Left
out: weights of classes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch.nn import functional

from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.core.events import message
from posttrain.data.dataset import Dataset
from posttrain.data.encoded import Encoded
from posttrain.data.packing import Packed
from posttrain.data.record import Labelled, kind_of
from posttrain.models.forward import hidden_states, layer_states, takes
from posttrain.models.heads import give_head, has_head, label_names, sequence_scores
from posttrain.train.objectives import Encoding, Prediction, Supervised

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel

Problem = Literal["single_label", "multi_label", "regression"]

# transformers' words for the problems.
_PROBLEM_TYPES: dict[Problem, str] = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
_BATCH = 1000  # texts tokenized at once


class SequenceClassification(Supervised):
    """Cross-entropy, binary cross-entropy or squared error on the labels of texts."""

    unit: ClassVar[str] = "loss a text"
    rising: ClassVar[frozenset[str]] = frozenset({"accuracy", "macro_f1", "micro_f1", "exact_match", "pearson"})

    problem: Problem | None = None
    """What labels are: single_label, multi_label or regression; found out from the data when not given."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the probability that is spread evenly over all classes; for one class a text only."""

    def prepare(self, model: LanguageModel, dataset: Dataset) -> None:
        """Give the network a head with one output a label, or one for a number.

        Raises:
            BadRequest: If labels are of mixed kinds or all alike, or the network has a head for others.
        """
        records = _labelled(dataset)
        problem = self.problem or _problem_of(records)
        names = _names(records, problem)
        if problem != "regression" and len(names) < 2:
            raise BadRequest(
                f"All {len(records)} records of {dataset.source} have the label {names[0]!r}, so there is nothing to "
                "tell apart."
                if names
                else f"No record of {dataset.source} has a label.",
                "Look at the data; a `limit` may have cut off all other classes.",
            )
        if has_head(model.network, "sequence_classification"):
            own = label_names(model.network)
            # Whole numbers may be the indices of labels that the model knows by name.
            indices = sorted(names) == sorted(map(str, range(len(own))))
            if indices or (problem == "regression" and len(own) == 1):
                names = own
        give_head(model, "sequence_classification", names, _PROBLEM_TYPES[problem])

    def encode(self, dataset: Dataset, model: LanguageModel, encoding: Encoding) -> list[Encoded]:
        """Texts as tokens, with the label's index, one 0 or 1 for each label, or the number.

        Raises:
            BadRequest: If a label isn't one of the network's, or a text is too long or gives no token.
        """
        records = _labelled(dataset)
        problem = model.network.config.problem_type
        names = {name: index for index, name in enumerate(label_names(model.network))}
        targets = [_target(record, problem, names) for record in records]
        return _encoded(records, targets, model, encoding)

    def weight(self, batch: Packed) -> float:
        """Number of texts."""
        return float(batch.segments)

    def predict(self, network: PreTrainedModel, batch: Packed, *, layers: bool = False) -> Prediction:
        """The scores that the network's own class gives, with the pooled state they are made from."""
        inputs = {name: value for name, value in batch.extras.items() if name == "token_type_ids"}
        if layers:
            states = layer_states(network, batch.input_ids, batch.boundaries, **inputs)
        else:
            states = [hidden_states(network, batch.input_ids, batch.boundaries, **inputs)]  # [T, H]
        scores = sequence_scores(network, states[-1], batch.input_ids, batch.boundaries)
        targets = batch.extras.get("label")
        if targets is None:  # several labels: [N, C]
            targets = torch.stack([batch.extras[f"label/{i}"] for i in range(scores.logits.shape[1])], 1)
        return Prediction(targets, scores.hidden, logits=scores.logits, layers=states if layers else None)

    def loss_of(self, prediction: Prediction, batch: Packed) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss summed over the texts, and the counts or moments that the metrics are made of."""
        targets, logits = prediction.targets, prediction.logits
        assert logits is not None
        logits = logits.float()
        if targets.dim() == 2:
            value = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1).sum()
            return value, _label_counts(logits.detach() > 0, targets > 0)
        if targets.is_floating_point():
            value = (logits[:, 0] - targets).square().sum()
            return value, _moments(logits[:, 0].detach(), targets)
        value = functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=self.label_smoothing)
        return value, _class_counts(logits.detach().argmax(1), targets, logits.shape[1])

    def summarize(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        """The loss with accuracy and macro F1, micro F1 and exact match, or squared error and Pearson's correlation.

        Macro F1 is over the classes that occur in labels or predictions, as in scikit-learn.
        """
        means = {"loss": sums["loss"] / weight}
        if "squared_error" in sums:
            return means | {"mse": sums["squared_error"] / weight, "pearson": _pearson(sums, weight)}
        if "exact" in sums:
            found = sums["predicted"] + sums["actual"]
            micro = 2 * sums["correct"] / found if found else 0.0
            return means | {"micro_f1": micro, "exact_match": sums["exact"] / weight}
        scores = [
            2 * sums[f"correct/{key}"] / both
            for key in (name.removeprefix("correct/") for name in sums if name.startswith("correct/"))
            if (both := sums[f"predicted/{key}"] + sums[f"actual/{key}"])
        ]
        correct = sum(value for name, value in sums.items() if name.startswith("correct/"))
        return means | {"accuracy": correct / weight, "macro_f1": sum(scores) / len(scores)}

    def baseline(self, items: Sequence[Encoded]) -> dict[str, float]:
        """Always the most frequent class or set of labels, or always the mean."""
        if "label" not in items[0].extras:
            sets = Counter(tuple(v for k, v in item.extras.items() if k.startswith("label/")) for item in items)
            return {"exact_match": sets.most_common(1)[0][1] / len(items)}
        labels = [item.extras["label"] for item in items]
        if isinstance(labels[0], float):
            mean = sum(labels) / len(labels)
            return {"mse": sum((label - mean) ** 2 for label in labels) / len(labels)}
        return {"accuracy": Counter(labels).most_common(1)[0][1] / len(items)}

    def baseline_name(self, metric: str) -> str:
        """The mean for numbers, else the majority."""
        return "mean" if metric == "mse" else "majority"


# -- labels ------------------------------------------------------------------------------------------------------------


def _labelled(dataset: Dataset) -> list[Labelled]:
    other = next((record for record in dataset.records if not isinstance(record, Labelled)), None)
    if other is not None:
        raise BadRequest(
            f"{other.origin}: a {kind_of(other)} record has no label.",
            "Classification takes text + label records; name the columns, as in columns: {text: T, label: L}.",
        )
    return cast("list[Labelled]", dataset.records)


def _problem_of(records: Sequence[Labelled]) -> Problem:
    """What the labels mean together; numbers of which one is no whole number are to be predicted."""
    kinds: dict[str, Labelled] = {}
    for record in records:
        kind = {list: "a list", str: "a name", int: "a number", float: "a number"}[type(record.labels)]
        kinds.setdefault(kind, record)
    if len(kinds) > 1:
        (first, a), (second, b) = list(kinds.items())[:2]
        raise BadRequest(
            f"{b.origin}: the label {b.labels!r} is {second}, but {a.origin} has {first}, {a.labels!r}.",
            "All labels of a set must be of one kind; write classes as names.",
        )
    if "a list" in kinds:
        return "multi_label"
    return "regression" if any(isinstance(record.labels, float) for record in records) else "single_label"


def _names(records: Sequence[Labelled], problem: Problem) -> list[str]:
    """All labels that occur, numbers by size and names by the alphabet; for numbers to predict transformers' own."""
    if problem == "regression":
        return ["LABEL_0"]
    found: set[int | str] = set()
    for record in records:
        if problem == "multi_label":
            found.update(record.labels if isinstance(record.labels, list) else [_class_of(record)])
        else:
            found.add(_class_of(record))
    return [str(label) for label in sorted(found, key=lambda label: (isinstance(label, str), label))]


def _class_of(record: Labelled) -> int | str:
    if isinstance(record.labels, (int, str)):
        return record.labels
    what = "several labels" if isinstance(record.labels, list) else "a number to predict"
    raise BadRequest(f"{record.origin}: the label {record.labels!r} is {what}, not one class.")


def _target(record: Labelled, problem: str | None, names: dict[str, int]) -> int | float | list[float]:
    """What is learned of a record: an index, a number, or a 1 for each label it has."""
    labels = record.labels
    if problem == "regression":
        if not isinstance(labels, (int, float)):
            raise BadRequest(f"{record.origin}: the label {labels!r} is no number.")
        return float(labels)
    if problem == "multi_label_classification":
        chosen = {_index(label, record, names) for label in (labels if isinstance(labels, list) else [labels])}
        return [float(index in chosen) for index in range(len(names))]
    return _index(_class_of(record), record, names)


def _index(label: Any, record: Labelled, names: dict[str, int]) -> int:
    if str(label) in names:
        return names[str(label)]
    if isinstance(label, int) and 0 <= label < len(names) and not any(name.isdecimal() for name in names):
        return label
    raise BadRequest(
        f"{record.origin}: the label {label!r} isn't one of the model's.", did_you_mean(str(label), map(str, names))
    )


# -- tokens ------------------------------------------------------------------------------------------------------------


def _encoded(
    records: Sequence[Labelled], targets: Sequence[int | float | list[float]], model: LanguageModel, encoding: Encoding
) -> list[Encoded]:
    if encoding.too_long == "split":
        raise BadRequest("A labelled text can't be split: its parts have no labels of their own.", "truncate or skip?")
    paired = any(record.text_pair is not None for record in records)
    with_types = paired and "token_type_ids" in model.tokenizer.model_input_names and takes(
        model.network, "token_type_ids"
    )  # fmt: skip
    items, skipped, cut = [], [], []
    for start in range(0, len(records), _BATCH):
        batch = records[start : start + _BATCH]
        whole = _tokens(batch, model, with_types)
        limit = encoding.max_length
        for record, target, (ids, types) in zip(batch, targets[start:], whole):
            if not ids:
                raise BadRequest(f"{record.origin}: the text gives no token.", "Remove the line.")
            if limit is not None and len(ids) > limit:
                if encoding.too_long == "skip":
                    skipped.append(record.origin)
                    continue
                if encoding.too_long == "error":
                    raise BadRequest(
                        f"{record.origin}: {len(ids)} tokens, but max_length is {limit}.",
                        "Raise max_length, or decide with --set encoding.too_long=… (truncate or skip).",
                    )
                cut.append(record.origin)
                ((ids, types),) = _tokens([record], model, with_types, max_length=limit, truncation=True)
            extras: dict[str, Any] = {"token_type_ids": types} if with_types else {}
            if isinstance(target, list):
                extras |= {f"label/{index}": value for index, value in enumerate(target)}
            else:
                extras["label"] = target
            items.append(Encoded(ids, [False] * len(ids), record.origin, extras))
    for origins, what in ((skipped, "left out, longer than"), (cut, "cut to")):
        if origins:
            text = f"{len(origins)} of {len(records)} texts {what} max_length={encoding.max_length}"
            message(f"{text} (first: {origins[0]}).", level="warning")
    if not items:
        raise BadRequest(f"All {len(records)} texts are longer than max_length={encoding.max_length}.")
    return items


def _tokens(
    records: Sequence[Labelled], model: LanguageModel, with_types: bool, **options: Any
) -> list[tuple[list[int], list[int]]]:
    """Ids and, if wanted, token types, with the tokenizer's own special tokens."""
    texts = [record.text if record.text_pair is None else (record.text, record.text_pair) for record in records]
    found = model.tokenizer(
        texts, return_attention_mask=False, return_token_type_ids=with_types, verbose=False, **options
    )
    return list(zip(found["input_ids"], found["token_type_ids"] if with_types else [[]] * len(texts)))


# -- metrics -----------------------------------------------------------------------------------------------------------


def _class_counts(predicted: torch.Tensor, actual: torch.Tensor, classes: int) -> dict[str, float]:
    kinds = (("correct", actual[predicted == actual]), ("predicted", predicted), ("actual", actual))
    return {
        f"{kind}/{index}": float(count)
        for kind, values in kinds
        for index, count in enumerate(torch.bincount(values, minlength=classes).tolist())
    }


def _label_counts(predicted: torch.Tensor, actual: torch.Tensor) -> dict[str, float]:
    return {
        "correct": float((predicted & actual).sum()),
        "predicted": float(predicted.sum()),
        "actual": float(actual.sum()),
        "exact": float((predicted == actual).all(1).sum()),
    }


def _moments(predicted: torch.Tensor, actual: torch.Tensor) -> dict[str, float]:
    x, y = predicted.double(), actual.double()
    sums = {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y, "squared_error": (x - y).square()}
    return {name: float(values.sum()) for name, values in sums.items()}


def _pearson(sums: dict[str, float], count: float) -> float:
    """Pearson's correlation; 0 where one side doesn't vary."""
    x, y = sums["x"] / count, sums["y"] / count
    spread = (sums["xx"] / count - x * x) * (sums["yy"] / count - y * y)
    return (sums["xy"] / count - x * y) / math.sqrt(spread) if spread > 1e-24 else 0.0
