"""Contract of the `adapt` family, checked on every method the folder holds."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from posttrain.adapt import trainable_share
from posttrain.core import catalog

IDS = torch.tensor([[5, 17, 40, 3, 99, 12]])


def _logits(network: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network(IDS).logits


def _disturb(network: torch.nn.Module) -> None:
    """Stand-in for training: move every trainable parameter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(params=catalog.terms("adapt"))
def adapter(request: pytest.FixtureRequest):
    cls = catalog.find("adapt", request.param)
    return cls(keep_base=True) if "keep_base" in cls.model_fields else cls()


def test_identity_at_step_zero(adapter, tiny_llama):
    network = deepcopy(tiny_llama.network)
    before = _logits(network)
    adapter.apply(network)
    assert torch.equal(_logits(network), before)


def test_only_what_is_declared_changes(adapter, tiny_llama):
    network = deepcopy(tiny_llama.network)
    adapter.apply(network)
    declared = set(adapter.trainable(network))
    assert declared
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    loss = network(IDS, labels=IDS).loss
    loss.backward()
    torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0).step()
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert changed and changed <= declared
    assert trainable_share(network)[0] == sum(before[name].numel() for name in declared)


def test_disabled_is_the_base(adapter, tiny_llama):
    network = deepcopy(tiny_llama.network)
    base = _logits(network)
    adapter.apply(network)
    _disturb(network)
    adapted = _logits(network)
    assert not torch.allclose(adapted, base, atol=1e-4)
    with adapter.disabled(network):
        assert torch.equal(_logits(network), base)
    assert torch.equal(_logits(network), adapted)


def test_merge_keeps_the_outputs_and_the_structure(adapter, tiny_llama):
    network = deepcopy(tiny_llama.network)
    names = [name for name, _ in network.named_modules()]
    adapter.apply(network)
    _disturb(network)
    adapted = _logits(network)
    adapter.merge(network)
    torch.testing.assert_close(_logits(network), adapted, atol=1e-5, rtol=1e-5)
    assert [name for name, _ in network.named_modules()] == names


def test_saved_and_loaded_is_equal(adapter, tiny_llama, tmp_path):
    model = deepcopy(tiny_llama)
    adapter.apply(model.network)
    _disturb(model.network)
    adapted = _logits(model.network)
    adapter.save(model, tmp_path)
    fresh = deepcopy(tiny_llama.network)
    type(adapter).load(fresh, tmp_path)
    assert torch.equal(_logits(fresh), adapted)
