"""Contract of the `quantize` family, checked on every method the folder holds, on nn.Linear and on GPT-2's Conv1D."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from posttrain.adapt.lora import Lora
from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.core.settings import help_of
from posttrain.models import sources
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.models.surgery import select
from posttrain.ops import kernels
from posttrain.quantize.linear import matrix_of
from posttrain.quantize.methods import Quantizer

IDS = torch.tensor([[5, 17, 40, 3, 99, 12]])
CALIBRATION = [[i % 290 + 3 for i in range(start, start + 32)] for start in range(0, 320, 20)]


@pytest.fixture(params=catalog.terms("quantize"))
def quantizer(request: pytest.FixtureRequest) -> Quantizer:
    return catalog.build("quantize", request.param)


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tiny_llama: LanguageModel) -> LanguageModel:
    if request.param == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        config = GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=128)
        tiny_llama.network = GPT2LMHeadModel(config).eval()
        with torch.no_grad():
            for parameter in tiny_llama.network.parameters():
                parameter += 0.02 * torch.randn_like(parameter)  # GPT-2 starts with biases of zero
    return tiny_llama


def _quantize(quantizer: Quantizer, model: LanguageModel) -> LanguageModel:
    quantizer.quantize(model, CALIBRATION)
    return model


def _logits(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network(IDS).logits


def _structure(network: nn.Module) -> list[tuple[Any, ...]]:
    modules = [(name, type(module), module.extra_repr()) for name, module in network.named_modules()]
    return modules + [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in network.state_dict().items()]


def _steps(layer: nn.Module, matrix: torch.Tensor) -> torch.Tensor:
    """The distance between two neighbouring values of each weight: one a row, one a group of a row, or its own."""
    inputs = matrix.shape[1]
    if layer.weight.is_floating_point() and not hasattr(layer, "grid"):
        kept = torch.finfo(layer.weight.dtype)
        return kept.eps * torch.exp2(matrix.abs().log2().floor()).clamp(min=kept.smallest_normal)
    width = layer.grid.width(inputs) if hasattr(layer, "grid") else inputs
    scale = layer.grid_parameters()[0] if hasattr(layer, "grid_parameters") else layer.scale.float()
    return scale.view(len(matrix), -1).repeat_interleave(width, 1)[:, :inputs]


def _weight_bytes(layer: nn.Module) -> int:
    return sum(tensor.nbytes for name, tensor in layer.state_dict().items() if name != "bias")


def test_settings_are_documented(quantizer: Quantizer) -> None:
    assert all(help_of(type(quantizer)).values())
    assert isinstance(quantizer.needs_calibration, bool)


def test_rounding_errs_by_half_a_step(quantizer: Quantizer, model: LanguageModel) -> None:
    if quantizer.needs_calibration:
        pytest.skip("what looks at activations may trade one weight's error for another's")
    if getattr(quantizer, "bits", 8) == 1:
        pytest.skip("two values aren't the ends of the range that the weights lie in")
    before = {name: matrix_of(layer) for name, layer in select(model.network, quantizer.targets).items()}
    quantizer.quantize(model)
    for name, matrix in before.items():
        layer = model.network.get_submodule(name)
        error = (layer.effective_weight() - matrix).abs()
        assert (error <= _steps(layer, matrix) / 2 * (1 + 1e-5)).all(), name
        assert error.max() > 0


def test_outputs_and_memory(quantizer: Quantizer, model: LanguageModel) -> None:
    before, size = _logits(model.network), model.nbytes()
    weights = {name: matrix_of(layer).numel() for name, layer in select(model.network, quantizer.targets).items()}
    _quantize(quantizer, model)
    after = _logits(model.network)
    assert after.shape == before.shape
    assert after.isfinite().all()
    assert not torch.equal(after, before)
    if not quantizer.final:  # it only prepares training
        return
    assert model.nbytes() < size
    # Scales and the like take little beside the codes, even of 64 inputs.
    for name, count in weights.items():
        stored = _weight_bytes(model.network.get_submodule(name))
        assert stored <= count * (getattr(quantizer, "bits", 8) + 0.6) / 8, name


def test_as_many_parameters_as_before(quantizer: Quantizer, model: LanguageModel) -> None:
    before = model.parameter_count()
    assert _quantize(quantizer, model).parameter_count() == before


def test_saved_and_loaded_is_equal(quantizer: Quantizer, model: LanguageModel, tmp_path: Path) -> None:
    _quantize(quantizer, model)
    save(model, tmp_path / "small")
    loaded = sources.load(str(tmp_path / "small"), device="cpu")
    assert _structure(loaded.network) == _structure(model.network)
    assert torch.equal(_logits(loaded.network), _logits(model.network))
    assert loaded.card["surgery"] == model.card["surgery"]
    assert loaded.fingerprint() == model.fingerprint()
    assert loaded.nbytes() == model.nbytes()
    # Once more, from what was loaded.
    save(loaded, tmp_path / "again")
    assert sources.load(str(tmp_path / "again"), device="cpu").fingerprint() == model.fingerprint()


def test_prepare_makes_the_same_modules(quantizer: Quantizer, model: LanguageModel) -> None:
    empty = deepcopy(model.network)
    _quantize(quantizer, model)
    quantizer.prepare(empty)
    assert _structure(empty) == _structure(model.network)


def test_what_is_left_is_an_ordinary_tree_of_modules(quantizer: Quantizer, model: LanguageModel) -> None:
    network = _quantize(quantizer, model).network
    after = _logits(network)
    copy = deepcopy(network)
    assert torch.equal(_logits(copy), after)
    with torch.no_grad():
        for tensor in copy.state_dict().values():
            tensor.zero_()
    copy.load_state_dict(network.state_dict())
    assert torch.equal(_logits(copy), after)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert not any(module.training for module in network.modules())
    assert network.train().eval() is network
    assert torch.equal(_logits(network), after)


def test_only_the_targets_are_touched(quantizer: Quantizer, model: LanguageModel) -> None:
    own = type(quantizer)(**{**quantizer.model_dump(), "targets": ["mlp"]})
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    chosen = set(select(model.network, "mlp"))
    kinds = {name: type(module) for name, module in model.network.named_modules()}
    _quantize(own, model)
    for name, module in model.network.named_modules():
        assert (type(module) is kinds[name]) == (name not in chosen)
    for name, tensor in model.network.state_dict().items():
        module_name = name.rpartition(".")[0]
        # A norm in front of a target may carry part of its scale.
        in_front = quantizer.needs_calibration and "Norm" in type(model.network.get_submodule(module_name)).__name__
        if module_name not in chosen and not in_front:
            assert torch.equal(tensor, before[name]), name
    assert model.network.get_output_embeddings().weight.dtype == torch.float32


def test_twice_is_refused_and_changes_nothing(quantizer: Quantizer, model: LanguageModel) -> None:
    _quantize(quantizer, model)
    before = model.fingerprint()
    with pytest.raises(BadRequest, match=r"is quantized already.*original model"):
        quantizer.quantize(model, CALIBRATION)
    with pytest.raises(BadRequest, match="is quantized already"):
        quantizer.prepare(model.network)
    assert model.fingerprint() == before


def test_in_two_parts(quantizer: Quantizer, model: LanguageModel, tmp_path: Path) -> None:
    """Attention first and the rest later, by two blocks in the card."""
    for targets in ("attention", "mlp"):
        _quantize(type(quantizer)(**{**quantizer.model_dump(), "targets": targets}), model)
    save(model, tmp_path / "small")
    loaded = sources.load(str(tmp_path / "small"), device="cpu")
    assert torch.equal(_logits(loaded.network), _logits(model.network))


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ("embeddings", "is an embedding; only linear layers are quantized"),
        ("mpl", "No module of .* matches 'mpl'"),
    ],
)
def test_what_cannot_be_quantized_is_refused(
    quantizer: Quantizer, model: LanguageModel, targets: str, sentence: str
) -> None:
    before = model.fingerprint()
    own = type(quantizer)(**{**quantizer.model_dump(), "targets": ["mlp", targets]})
    with pytest.raises(BadRequest, match=sentence):
        own.quantize(model, CALIBRATION)
    assert model.fingerprint() == before


def test_an_adapted_network_is_refused(quantizer: Quantizer, model: LanguageModel) -> None:
    Lora(rank=2).apply(model.network)
    before = model.fingerprint()
    with pytest.raises(BadRequest, match="merge"):
        quantizer.quantize(model, CALIBRATION)
    assert model.fingerprint() == before


def test_a_row_does_not_depend_on_its_neighbours(quantizer: Quantizer, model: LanguageModel) -> None:
    """Bit for bit, in every quantized layer; torch's own products of floating-point activations don't promise that."""
    names = list(select(model.network, quantizer.targets))
    _quantize(quantizer, model)
    generator = torch.Generator().manual_seed(0)
    for name in names:
        layer = model.network.get_submodule(name)
        x = torch.randn(9, layer.in_features, generator=generator)
        x[4] *= 1000
        if layer.weight.dtype.is_floating_point or not (kernels.available() or getattr(layer, "dynamic", False)):
            continue
        with torch.no_grad():
            together = layer(x)
            assert all(torch.equal(layer(x[i : i + 1])[0], together[i]) for i in range(len(x))), name
            assert torch.equal(layer(x.view(3, 3, -1)).flatten(0, 1), together), name


def test_an_adapter_on_top_trains_and_cannot_be_merged(quantizer: Quantizer, model: LanguageModel) -> None:
    """As in QLoRA (Dettmers et al., 2023): the base is fixed and small, low-rank matrices beside it learn."""
    network = _quantize(quantizer, model).network
    base = _logits(network)
    frozen = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapter = Lora(rank=4, targets="all-linear")
    adapter.apply(network)
    assert torch.equal(_logits(network), base)
    trained = adapter.trainable(network)
    assert len(trained) == 2 * len(select(network, r".*\.base"))
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = network(IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        # B starts at zero, so in the first step only B has a gradient; it reaches the first layer.
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
        assert all(p.grad.abs().sum() > 0 for name, p in trained.items() if ".B." in name)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5
    with adapter.disabled(network):
        assert torch.equal(_logits(network), base)
    now = {name.replace(".base.", "."): t for name, t in network.state_dict().items()}
    assert all(torch.equal(now[name], tensor) for name, tensor in frozen.items())
    if not quantizer.final:  # weights that are still trained take the update
        adapter.merge(network)
        return
    with pytest.raises(BadRequest, match="is quantized; merging would round the update away"):
        adapter.merge(network)
