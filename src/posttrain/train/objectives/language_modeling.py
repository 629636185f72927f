"""Next-token prediction: the mean negative log-likelihood of the tokens that carry loss.

Logits are taken only at the positions where there is a token to learn, in chunks, and their gradient is formed in the
same pass; the [tokens, vocabulary] matrix never exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from posttrain.core.errors import BadRequest
from posttrain.data.chat_template import encode_all
from posttrain.data.dataset import Dataset
from posttrain.data.encoded import Encoded
from posttrain.data.packing import Packed
from posttrain.models.forward import hidden_states, layer_states, vocabulary_head
from posttrain.ops.logprobs import linear_cross_entropy
from posttrain.train.objectives import Encoding, Prediction, Supervised

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


class LanguageModeling(Supervised):
    """Cross-entropy on completion or assistant tokens (or on all tokens of plain text)."""

    unit: ClassVar[str] = "nats a token"

    def prepare(self, model: LanguageModel, dataset: Dataset) -> None:
        """Nothing is added; a network without a vocabulary projection is refused."""
        if model.network.get_output_embeddings() is None:
            raise BadRequest(
                f"{type(model.network).__name__} predicts no tokens: it has no vocabulary projection.",
                "Take a language model, or another objective: `posttrain list objective`.",
            )

    def encode(self, dataset: Dataset, model: LanguageModel, encoding: Encoding) -> list[Encoded]:
        """Texts, completions and conversations as tokens with their loss spans."""
        return encode_all(
            dataset.records,
            model.tokenizer,
            max_length=encoding.max_length,
            too_long=encoding.too_long,
            train_on=encoding.train_on,
            chat=encoding.chat,
        ).items

    def weight(self, batch: Packed) -> float:
        """Number of tokens that carry loss."""
        return float(batch.loss_tokens)

    def predict(self, network: PreTrainedModel, batch: Packed, *, layers: bool = False) -> Prediction:
        """Hidden states of the positions that predict a learned token; logits are left to whoever needs them."""
        if layers:
            states = layer_states(network, batch.input_ids, batch.boundaries)
        else:
            states = [hidden_states(network, batch.input_ids, batch.boundaries)]  # [T, H]
        learned = batch.targets >= 0
        head = vocabulary_head(network)
        return Prediction(batch.targets[learned], states[-1][learned], head, layers=states if layers else None)

    def loss_of(self, prediction: Prediction, batch: Packed) -> tuple[torch.Tensor, dict[str, float]]:
        """Summed negative log-likelihood in nats."""
        head = prediction.head
        assert head is not None
        value = linear_cross_entropy(
            prediction.hidden,
            head.weight,
            prediction.targets,
            bias=head.bias,
            softcap=head.softcap,
            scale=head.scale,
        )
        return value, {}
