"""Tiny language models and a tiny classifier to distil, and a task whose logits exist whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from posttrain.data.encoded import Encoded
from posttrain.data.packing import Packed, pack
from posttrain.models.forward import hidden_states, layer_states
from posttrain.models.language_model import LanguageModel
from posttrain.train.objectives import Prediction, Supervised
from tiny_models import make_tiny_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def llama(layers: int = 2, width: int = 32, seed: int = 0, vocabulary: int = 300) -> LanguageModel:
    """A tiny Llama with wide-spread weights, so that its predictions aren't uniform."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    return LanguageModel(LlamaForCausalLM(config).eval(), make_tiny_tokenizer(), "tiny", {"name": "tiny"})


def bert_classifier(layers: int = 3, seed: int = 0, labels: int = 3) -> LanguageModel:
    """A tiny BERT with a head for as many labels."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=128,
        num_labels=labels,
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    return LanguageModel(BertForSequenceClassification(config).eval(), make_tiny_tokenizer(), "bert", {"name": "bert"})


def gpt2(layers: int = 3, seed: int = 0) -> LanguageModel:
    """A tiny GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=300, n_positions=128, n_embd=32, n_layer=layers, n_head=4)
    return LanguageModel(GPT2LMHeadModel(config).eval(), make_tiny_tokenizer(), "gpt2", {"name": "gpt2"})


class Classes(Supervised):
    """Each sequence is of the class in its extra `label`; the logits are those of the first token."""

    def encode(self, dataset: Any, model: Any, encoding: Any) -> list[Encoded]:
        raise NotImplementedError

    def weight(self, batch: Packed) -> float:
        return float(batch.segments)

    def predict(self, network: PreTrainedModel, batch: Packed, *, layers: bool = False) -> Prediction:
        if layers:
            states = layer_states(network, batch.input_ids, batch.boundaries)
        else:
            states = [hidden_states(network, batch.input_ids, batch.boundaries)]
        first = states[-1][batch.boundaries[:-1]]
        return Prediction(
            batch.extras["label"], first, logits=network.classifier(first), layers=states if layers else None
        )

    def loss_of(self, prediction: Prediction, batch: Packed) -> tuple[torch.Tensor, dict[str, float]]:
        assert prediction.logits is not None
        right = prediction.logits.argmax(-1) == prediction.targets
        value = torch.nn.functional.cross_entropy(prediction.logits, prediction.targets, reduction="sum")
        return value, {"accuracy": float(right.sum())}


def sequences(lengths: Sequence[int], seed: int = 0) -> list[Encoded]:
    """Random sequences whose second half is learned."""
    drawn = torch.Generator().manual_seed(seed)
    items = []
    for length in lengths:
        ids = torch.randint(3, 300, (length,), generator=drawn).tolist()
        items.append(Encoded(ids, [i >= length // 2 for i in range(length)]))
    return items


def labelled(lengths: Sequence[int], seed: int = 0) -> list[Encoded]:
    """Random sequences of which nothing is learned but a class."""
    items = sequences(lengths, seed)
    return [Encoded(item.input_ids, [False] * len(item), extras={"label": i % 3}) for i, item in enumerate(items)]


def language_batch(lengths: Sequence[int], seed: int = 0) -> Packed:
    """`sequences`, packed."""
    return pack(sequences(lengths, seed))
