"""Calibration block by block: what each layer is shown equals what it gets in an ordinary pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from posttrain.core.errors import BadRequest
from posttrain.models.language_model import LanguageModel
from posttrain.models.surgery import replace, select
from posttrain.quantize.calibration import stages
from tiny_models import make_tiny_bert

SEQUENCES = [[(7 * i + 11 * s) % 290 + 3 for i in range(20 + s % 3)] for s in range(6)]


def _ordinary_inputs(network: nn.Module, names: list[str], sequences: list[list[int]] = SEQUENCES) -> dict[str, Tensor]:
    """What enters each layer, sequence by sequence, [tokens, inputs]."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, arguments: found[name].append(arguments[0].reshape(-1, arguments[0].shape[-1]))

    hooks = [network.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    with torch.no_grad():
        for sequence in sequences:
            network(torch.tensor([sequence]))
    for each in hooks:
        each.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def _blocks(network: nn.Module) -> list[nn.Module]:
    return [block for each in network.modules() if isinstance(each, nn.ModuleList) for block in each]


def _gpt2(model: LanguageModel) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_embd=64, n_layer=3, n_head=4, n_positions=128)
    model.network = GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("tokens_per_pass", [10, 45, 10_000])
def test_shows_what_an_ordinary_pass_shows(tiny_llama: LanguageModel, kind: str, tokens_per_pass: int) -> None:
    model = make_tiny_bert() if kind == "bert" else tiny_llama
    if kind == "gpt2":
        _gpt2(model)
    network = model.network
    layers = {k: m for k, m in select(network, "all-linear").items() if "pooler" not in k}
    sequences = [[token % 90 for token in sequence] for sequence in SEQUENCES]
    expected = _ordinary_inputs(network, list(layers), sequences)
    found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def see(names: tuple[str, ...], x: Tensor) -> None:
        assert not x.requires_grad
        for name in names:
            found[name].append(x)

    for stage in stages(network, sequences, layers, tokens_per_pass):
        assert all(name.startswith(f"{stage.name}.") for name in stage.layers)
        stage.observe(see)
    for name, parts in found.items():
        torch.testing.assert_close(torch.cat(parts), expected[name], rtol=1e-4, atol=1e-5)
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert not any("forward" in vars(block) for block in _blocks(network))


def test_layers_with_the_same_input_come_together(tiny_llama: LanguageModel) -> None:
    layers = select(tiny_llama.network, "all-linear")
    seen: list[tuple[str, ...]] = []
    for number, stage in enumerate(stages(tiny_llama.network, SEQUENCES, layers)):
        block = f"model.layers.{number}"
        assert stage.groups() == [
            tuple(f"{block}.self_attn.{name}_proj" for name in "qkv"),
            (f"{block}.self_attn.o_proj",),
            (f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj"),
            (f"{block}.mlp.down_proj",),
        ]
        seen.clear()
        stage.observe(lambda names, _: seen.append(names), only=[f"{block}.mlp.up_proj"])
        assert seen == [(f"{block}.mlp.up_proj",)]


def test_a_changed_block_is_felt_above_and_not_below(tiny_llama: LanguageModel) -> None:
    network = tiny_llama.network
    layers = select(network, "q_proj")
    before = _ordinary_inputs(network, list(layers))
    shown: dict[str, Tensor] = {}
    for stage in stages(network, SEQUENCES, layers):
        stage.observe(lambda names, x: shown.update({names[0]: x}))
        for name, layer in stage.layers.items():
            halved = nn.Linear(layer.in_features, layer.out_features, bias=False)
            with torch.no_grad():
                halved.weight.copy_(layer.weight / 2)
            replace(network, name, halved)
    after = _ordinary_inputs(network, list(layers))
    first, second = layers
    torch.testing.assert_close(shown[first], before[first])
    torch.testing.assert_close(shown[second], after[second], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before[second], after[second], rtol=1e-4, atol=1e-5)


def test_within_a_block_too(tiny_llama: LanguageModel) -> None:
    """Replacing a layer between two observations of one stage changes what the layers behind it get."""
    network = tiny_llama.network
    layers = select(network, ["layers.0.mlp.up_proj", "layers.0.mlp.down_proj"])
    up, down = layers
    (stage,) = stages(network, SEQUENCES, layers)
    shown: list[Tensor] = []
    stage.observe(lambda _, x: shown.append(x), only=[down])
    replace(network, up, nn.Linear(64, 128, bias=False))
    stage.observe(lambda _, x: shown.append(x), only=[down])
    assert not torch.allclose(shown[0], shown[1])


def test_the_vocabulary_projection_comes_last(tiny_llama: LanguageModel) -> None:
    network = tiny_llama.network
    layers = select(network, ["layers.0.mlp.up_proj", "lm_head"])
    expected = _ordinary_inputs(network, ["lm_head"])["lm_head"]
    order = []
    shown: list[Tensor] = []
    for stage in stages(network, SEQUENCES, layers, tokens_per_pass=50):
        order.append(stage.name)
        if stage.name == "lm_head":
            stage.observe(lambda _, x: shown.append(x))
            torch.testing.assert_close(torch.cat(shown), expected, rtol=1e-4, atol=1e-5)
    assert order == ["model.layers.0", "lm_head"]


def test_the_mode_is_restored_also_when_left_early(tiny_llama: LanguageModel) -> None:
    network = tiny_llama.network.train()
    layers = select(network, "all-linear")
    walk = stages(network, SEQUENCES, layers)
    next(walk)
    assert not network.training
    walk.close()
    assert network.training


def test_networks_that_cannot_be_packed_get_no_padding(
    tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.models import forward
    from posttrain.quantize import calibration

    for module in (forward, calibration):
        monkeypatch.setattr(module, "supports_packing", lambda _: False)
    layers = select(tiny_llama.network, "q_proj")
    tokens = 0

    def see(names: tuple[str, ...], x: Tensor) -> None:
        nonlocal tokens
        tokens += len(x) * len(names)

    for stage in stages(tiny_llama.network, SEQUENCES, layers):
        stage.observe(see)
    assert tokens == 2 * sum(map(len, SEQUENCES))


def test_what_it_cannot_do_is_refused(tiny_llama: LanguageModel) -> None:
    network = tiny_llama.network
    with pytest.raises(BadRequest, match="nothing to calibrate with"):
        next(stages(network, [[], []], select(network, "all-linear")))
    bert = make_tiny_bert().network
    with pytest.raises(BadRequest, match=r"pooler.dense lies in no block"):
        next(stages(bert, SEQUENCES, select(bert, "all-linear")))


def test_a_network_that_works_between_its_blocks_is_refused(tiny_llama: LanguageModel) -> None:
    network = tiny_llama.network
    block = network.model.layers[1]
    block.register_forward_pre_hook(lambda _, arguments: (arguments[0] * 2, *arguments[1:]))
    with pytest.raises(BadRequest, match="changes its hidden states between blocks"):
        next(stages(network, SEQUENCES, select(network, "all-linear")))
    assert not any("forward" in vars(block) for block in _blocks(network))


def test_two_stacks_are_refused() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0)
    network = T5ForConditionalGeneration(config).eval()
    with pytest.raises(BadRequest, match="two stacks of blocks"):
        next(stages(network, [[1, 2, 3]], select(network, "q")))
