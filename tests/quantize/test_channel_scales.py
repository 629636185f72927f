"""Scales that move between layers: where, that nothing changes, and which networks are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from posttrain.core.errors import BadRequest
from posttrain.models.surgery import select
from posttrain.quantize.channel_scales import Place, find_places, move

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IDS = torch.tensor([[5, 17, 40, 3, 99, 12]])
SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def _make(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    grouped = {**SIZES, "num_key_value_heads": 2}
    if kind == "llama":
        network = LlamaForCausalLM(LlamaConfig(**grouped))
    elif kind == "llama-multi-query":
        network = LlamaForCausalLM(LlamaConfig(**{**grouped, "num_key_value_heads": 1}))
    elif kind == "qwen2":
        network = Qwen2ForCausalLM(Qwen2Config(**grouped))
    elif kind == "gemma":
        network = GemmaForCausalLM(GemmaConfig(**grouped, head_dim=16))
    elif kind == "gpt2":
        network = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=64))
    elif kind == "bert":
        network = BertForSequenceClassification(BertConfig(**SIZES))
    else:
        network = MixtralForCausalLM(MixtralConfig(**grouped, num_local_experts=2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)  # biases begin at zero, norms at one
    return network.eval()


def _named(places: list[Place]) -> dict[str, tuple[str, ...]]:
    return {place.source: place.readers for place in places}


def test_places_of_a_llama() -> None:
    network = _make("llama")
    found = _named(find_places(network, select(network, "all-linear"), IDS))
    assert len(found) == 2 * 4
    layer = "model.layers.1"
    attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
    assert set(found[f"{layer}.input_layernorm"]) == {f"{attention}.{n}_proj" for n in "qkv"}
    assert set(found[f"{layer}.post_attention_layernorm"]) == {f"{mlp}.gate_proj", f"{mlp}.up_proj"}
    assert found[f"{attention}.v_proj"] == (f"{attention}.o_proj",)
    assert found[f"{mlp}.up_proj"] == (f"{mlp}.down_proj",)


def test_value_heads_that_serve_several_query_heads() -> None:
    """4 heads of 16 on 2 value heads: heads 0 and 1 read channels 0 … 15, heads 2 and 3 channels 16 … 31."""
    network = _make("llama")
    (place,) = [
        p for p in find_places(network, select(network, "all-linear"), IDS) if p.source.endswith("0.self_attn.v_proj")
    ]
    expected = [*range(16), *range(16), *range(16, 32), *range(16, 32)]
    assert place.channels.tolist() == expected
    largest = torch.arange(64.0)
    assert place.shared(largest).tolist() == [*range(16, 32), *range(48, 64)]  # the larger of the two that share


@pytest.mark.parametrize("kind", ["llama", "llama-multi-query", "qwen2", "gemma", "gpt2", "mixtral"])
def test_the_network_computes_what_it_did(kind: str) -> None:
    """To 1e-5 in float32, with factors between a fifth and five."""
    network = _make(kind)
    with torch.no_grad():
        before = network(input_ids=IDS).logits
        generator = torch.Generator().manual_seed(1)
        places = find_places(network, select(network, "all-linear"), IDS)
        assert torch.equal(network(input_ids=IDS).logits, before)  # looking changes nothing
        for place in places:
            count = int(place.channels.max()) + 1
            weights = [network.get_submodule(name).weight.clone() for name in (place.source, *place.readers)]
            move(network, place, torch.exp(1.6 * (2 * torch.rand(count, generator=generator) - 1)))
            for name, weight in zip((place.source, *place.readers), weights):
                assert not torch.equal(network.get_submodule(name).weight, weight)
        after = network(input_ids=IDS).logits
    assert (after - before).norm() <= 1e-5 * before.norm()


def test_only_targets_are_scaled() -> None:
    network = _make("llama")
    found = _named(find_places(network, select(network, "mlp"), IDS))
    assert {name.rpartition(".")[2] for name in found} == {"post_attention_layernorm", "up_proj"}
    with pytest.raises(BadRequest, match="no layers whose scales could be moved"):
        find_places(network, select(network, "q_proj"), IDS)  # its norm feeds key and value, too


def test_experts_are_left_alone() -> None:
    """Mixtral's router and experts read the second norm; only its attention has places."""
    network = _make("mixtral")
    found = _named(find_places(network, select(network, "all-linear"), IDS))
    assert {name.rpartition(".")[2] for name in found} == {"input_layernorm", "v_proj"}


def test_a_network_whose_norms_feed_more_is_refused_unchanged() -> None:
    """BERT adds a norm's output to the next block's."""
    network = _make("bert")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(BadRequest, match="would change what"):
        find_places(network, select(network, "all-linear"), IDS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_norm_that_does_otherwise_is_left_alone() -> None:
    class SquaredNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(64) + 0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight**2

    network = _make("llama")
    network.model.layers[0].input_layernorm = norm = SquaredNorm()
    before = norm.weight.clone()
    found = _named(find_places(network, select(network, "all-linear"), IDS))
    assert "model.layers.0.input_layernorm" not in found
    assert "model.layers.1.input_layernorm" in found
    assert torch.equal(norm.weight, before)
