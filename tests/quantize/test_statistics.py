"""Statistics of activations: what is watched, which layers share it, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from posttrain.core.errors import BadRequest, Failure
from posttrain.models.language_model import LanguageModel
from posttrain.quantize.observers.min_max import MinMax
from posttrain.quantize.statistics import (
    largest_inputs,
    observe_inputs,
    rounding_noise,
    shared_inputs,
    watch_inputs,
)

SEQUENCES = [[5, 17, 40, 3, 99, 12], [7, 7, 8], [250, 1]]
LAYER = "model.layers.1.mlp.down_proj"


def _seen(model: LanguageModel, names: list[str], sequences: Any = SEQUENCES) -> dict[str, list[torch.Tensor]]:
    found: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    watch_inputs(model.network, names, sequences, lambda name, x: found[name].append(x.clone()))
    return found


def test_every_token_is_seen_once(tiny_llama: LanguageModel) -> None:
    """As a hook of our own on transformers' forward pass sees it."""
    expected = []
    hook = tiny_llama.network.get_submodule(LAYER).register_forward_pre_hook(
        lambda _, inputs: expected.append(inputs[0])
    )
    for sequence in SEQUENCES:
        with torch.no_grad():
            tiny_llama.network(input_ids=torch.tensor([sequence]))
    hook.remove()
    found = _seen(tiny_llama, [LAYER])[LAYER]
    assert [x.shape for x in found] == [(6, 128), (3, 128), (2, 128)]
    torch.testing.assert_close(torch.cat(found), torch.cat([x[0] for x in expected]))
    assert not tiny_llama.network.get_submodule(LAYER)._forward_pre_hooks


def test_the_vocabulary_projection_sees_all_tokens_too(tiny_llama: LanguageModel) -> None:
    assert [len(x) for x in _seen(tiny_llama, ["lm_head"])["lm_head"]] == [6, 3, 2]


def test_a_classifiers_head_is_reached(tiny_llama: LanguageModel) -> None:
    from transformers import LlamaForSequenceClassification

    tiny_llama.network = LlamaForSequenceClassification(tiny_llama.network.config).eval()
    assert _seen(tiny_llama, ["score"])["score"]


def test_layers_that_share_an_input(tiny_llama: LanguageModel) -> None:
    parts = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj")
    names = [f"model.layers.0.{part}" for part in parts]
    groups = shared_inputs(tiny_llama.network, names, SEQUENCES)
    assert [tuple(name.rpartition(".")[2] for name in group) for group in groups] == [
        ("q_proj", "v_proj"),
        ("o_proj",),
        ("gate_proj", "up_proj"),
    ]


def test_observers_see_what_there_is(tiny_llama: LanguageModel) -> None:
    names = ["model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.q_proj", LAYER]
    observed = observe_inputs(tiny_llama.network, names, SEQUENCES, MinMax(symmetric=False))
    assert set(observed) == set(names)
    for name, found in _seen(tiny_llama, names).items():
        x = torch.cat(found)
        assert observed[name].range(8) == (float(x.min()), float(x.max()))


def test_largest_of_each_channel(tiny_llama: LanguageModel) -> None:
    found = largest_inputs(tiny_llama.network, [LAYER], SEQUENCES)[LAYER]
    assert torch.equal(found, torch.cat(_seen(tiny_llama, [LAYER])[LAYER]).abs().amax(0))


def test_noise_by_hand() -> None:
    """Range ±127, step 1: (3, 4.25) loses 0.25² of 3² + 4.25² = 27.0625; (500, 0) loses 373² of 500²."""

    class Network(nn.Module):
        device = torch.device("cpu")

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)
            self.rows = torch.tensor([[3.0, 4.25], [500.0, 0.0]])

        def get_output_embeddings(self) -> None:
            return None

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.layer(self.rows[input_ids])

    network: Any = Network()
    expected = (0.25**2 / 27.0625 + 373**2 / 500**2) / 2
    assert rounding_noise(network, {"layer": (-127.0, 127.0)}, [[0, 1]], symmetric=True)["layer"] == pytest.approx(
        expected
    )
    assert rounding_noise(network, {"layer": (-1.0, 253.0)}, [[0]], symmetric=False)["layer"] == pytest.approx(
        0.25**2 / 27.0625
    )


def test_numbers_that_are_none_are_named(tiny_llama: LanguageModel) -> None:
    with torch.no_grad():
        tiny_llama.network.model.layers[0].mlp.up_proj.weight[3, 3] = float("nan")
    with pytest.raises(Failure, match=r"model\.layers\.0\.mlp\.down_proj gets activations that are not numbers"):
        _seen(tiny_llama, ["model.layers.0.mlp.down_proj"])


def test_a_layer_that_is_never_reached_is_named(tiny_llama: LanguageModel) -> None:
    tiny_llama.network.unused = nn.Linear(2, 2)
    with pytest.raises(Failure, match="unused got no input"):
        _seen(tiny_llama, [LAYER, "unused"])


def test_no_texts(tiny_llama: LanguageModel) -> None:
    for nothing in ([], [[]]):
        with pytest.raises(BadRequest, match="no calibration texts"):
            _seen(tiny_llama, [LAYER], nothing)
