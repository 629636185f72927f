"""Semantic similarity: words of a prediction matched with the nearest in a reference, by the states of an encoder.

BERTScore (Zhang et al., 2020, equation 1): each token is matched with the most similar one of the other text by the
cosine of their contextual states; precision is the mean over the prediction's tokens, recall over the reference's. The
figure is the mean F1 over texts; of several references the one with the best F1 counts. Special tokens take no part.
Left out: weights by inverse document frequency, and rescaling by a baseline. Values of different encoders or layers
can't be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch.nn import functional

from posttrain.core import events
from posttrain.core.errors import BadRequest, Failure
from posttrain.measure import AdditiveMetric, Array, Statistics, means, totals, with_count
from posttrain.models import sources
from posttrain.models.forward import layer_states, takes
from posttrain.models.language_model import LanguageModel


class SemanticSimilarity(AdditiveMetric):
    """Mean F1 of greedily matched token states."""

    higher_is_better: ClassVar[bool] = True

    model: str = "minilm"
    """The encoder: an alias, a folder or hub:owner/name."""

    layer: int | None = None
    """Which layer's states are compared, 0 being the embeddings; the last when not given."""

    batch_size: int = Field(32, ge=1)
    """Predictions at once; changes speed and memory, never the value."""

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """Precision, recall and F1 of each text.

        Raises:
            BadRequest: If the encoder hasn't so many layers, or is half of an encoder-decoder.
            Failure: If its states aren't numbers.
        """
        return self._statistics(sources.load(self.model, network_class="encoder"), predictions, references)

    def both_statistics(
        self, predictions: Sequence[str], baseline: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[Statistics, Statistics]:
        """The statistics of two systems, by the same encoder."""
        model = sources.load(self.model, network_class="encoder")
        return self._statistics(model, predictions, references), self._statistics(model, baseline, references)

    def _statistics(
        self, model: LanguageModel, predictions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> Statistics:
        encoder = _Encoder(model, self.layer)
        rows = []
        with events.task("semantic similarity", total=len(predictions), unit="texts") as progress:
            for start in range(0, len(predictions), self.batch_size):
                ours = predictions[start : start + self.batch_size]
                theirs = references[start : start + self.batch_size]
                states = encoder.states([*ours, *(text for each in theirs for text in each)])
                right = iter(states[len(ours) :])
                for mine, each in zip(states, theirs):
                    rows.append(max((greedy_match(mine, next(right)) for _ in each), key=lambda found: found[2]))
                progress.advance(len(ours))
        if encoder.cut:
            events.message(f"{encoder.cut} texts are longer than the encoder reads and were cut.", level="warning")
        if encoder.unknown:
            events.message(
                f"{encoder.unknown} tokens are the unknown token: what they hide isn't compared, and they are alike.",
                level="warning",
            )
        return Statistics(with_count(rows), f"encoder:{model.fingerprint()[:12]}")

    def values(self, sums: Array) -> Array:
        """Mean F1."""
        return means(sums, 2)

    def parts(self, rows: Array) -> dict[str, Any]:
        """Mean precision and recall."""
        return dict(zip(("precision", "recall"), (totals(rows)[:2] / len(rows)).tolist()))


def greedy_match(prediction: torch.Tensor, reference: torch.Tensor) -> tuple[float, float, float]:
    """Precision, recall and F1 of two texts.

    Args:
        prediction: [n, H], states of its tokens, each of length 1.
        reference: [m, H].

    Returns:
        Zeros where one text has no tokens.
    """
    if not len(prediction) or not len(reference):
        return 0.0, 0.0, 0.0
    cosines = prediction @ reference.T
    precision, recall = float(cosines.amax(1).mean()), float(cosines.amax(0).mean())
    both = precision + recall
    return precision, recall, 2 * precision * recall / both if both > 0 else 0.0


class _Encoder:
    """An encoder, how many texts were too long for it, and how many tokens of texts it doesn't know."""

    def __init__(self, model: LanguageModel, layer: int | None) -> None:
        if model.network.config.is_encoder_decoder:
            raise BadRequest(
                f"{model.reference or type(model.network).__name__} is an encoder-decoder.", "Name an encoder."
            )
        depth = int(model.network.config.get_text_config().num_hidden_layers)
        if layer is not None and not 0 <= layer <= depth:
            raise BadRequest(f"layer {layer} isn't one of the encoder's: 0 (embeddings) to {depth}.")
        self.model, self.layer, self.cut, self.unknown = model, depth if layer is None else layer, 0, 0
        tokenizer = model.tokenizer
        roles = (tokenizer.eos_token_id, tokenizer.pad_token_id)
        self._unknown = None if tokenizer.unk_token_id in roles else tokenizer.unk_token_id

    def states(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """For each text [tokens, H] float32 on the CPU, of length 1 each, without special tokens."""
        tokenizer, network = self.model.tokenizer, self.model.network
        encoded = tokenizer(
            list(texts), return_special_tokens_mask=True, return_attention_mask=False, return_token_type_ids=False
        )
        limit = min(tokenizer.model_max_length, self.model.context_length or tokenizer.model_max_length)
        ids = [each[:limit] for each in encoded["input_ids"]]
        self.cut += sum(len(each) > limit for each in encoded["input_ids"])
        self.unknown += 0 if self._unknown is None else sum(each.count(self._unknown) for each in ids)
        flat = torch.tensor([token for each in ids for token in each], dtype=torch.long, device=self.model.device)
        lengths = torch.tensor([0, *map(len, ids)], device=self.model.device)
        types = {"token_type_ids": torch.zeros_like(flat)} if takes(network, "token_type_ids") else {}
        with torch.inference_mode():
            layer = layer_states(network, flat, lengths.cumsum(0), **types)[self.layer]
        if not layer.isfinite().all():
            raise Failure("The encoder's states are not numbers.", "Check its weights.")
        parts = functional.normalize(layer.float(), dim=-1).cpu().split([len(each) for each in ids])
        special = encoded["special_tokens_mask"]
        return [part[~torch.tensor(mask[:limit], dtype=torch.bool)] for part, mask in zip(parts, special)]
