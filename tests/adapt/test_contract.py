"""Contract of the `adapt` family, checked on every method the folder holds."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from posttrain.adapt import adapter_layers, assigned, trainable_share
from posttrain.core import catalog, events
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.collate import Batches
from posttrain.train.loop import Loop, train
from posttrain.train.objectives import Encoding
from posttrain.train.objectives.language_modeling import LanguageModeling

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
    """Or it is refused, and nothing has changed."""
    network = deepcopy(tiny_llama.network)
    names = [name for name, _ in network.named_modules()]
    adapter.apply(network)
    _disturb(network)
    adapted = _logits(network)
    if not adapter.mergeable:
        with pytest.raises(BadRequest, match="can't be merged"):
            adapter.merge(network)
        assert torch.equal(_logits(network), adapted)
        return
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


def test_each_row_has_its_own_adapter(adapter, tiny_llama):
    """Four rows: the first adapter, none, the second, the first; each equals its row computed alone."""
    network = deepcopy(tiny_llama.network)
    rows = torch.randint(3, 300, (4, 6), generator=torch.Generator().manual_seed(2))
    names = ["first", None, "second", "first"]
    adapter.apply(network, "first")
    if not adapter_layers(network):
        with pytest.raises(BadRequest, match="carries no adapter"), assigned(network, names):
            pass
        return
    _disturb(network)
    adapter.apply(network, "second")
    _disturb(network)
    layers = adapter_layers(network).values()
    with torch.no_grad():
        expected = []
        for name, row in zip(names, rows):
            for layer in layers:
                layer.active = name
            expected.append(network(row[None]).logits[0])
        with assigned(network, names):
            found = network(rows).logits
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)
    assert all(layer.active == "first" for layer in layers)  # as it was before the block
    base = deepcopy(tiny_llama.network)(rows).logits
    assert [torch.allclose(a, b, atol=1e-4) for a, b in zip(found, base)] == [False, True, False, False]


def test_a_killed_run_goes_on_bit_for_bit(adapter, tiny_llama, tmp_path):
    """Whatever a method keeps beside its parameters must be in the checkpoint."""
    rows = [{"prompt": f"What is {i}?", "completion": f" {i} apples."} for i in range(9)]
    items = LanguageModeling().encode(dataset.read(rows), tiny_llama, Encoding())

    def run(**options) -> torch.nn.Module:
        network = deepcopy(tiny_llama.network)
        torch.manual_seed(4)
        adapter.apply(network)
        train(
            network,
            LanguageModeling(),
            Batches(items, 3, 64, seed=1),
            Loop(steps=8, learning_rate=1e-2, checkpoint_every=1),
            parts={"adapter": adapter},
            **options,
        )
        return network

    def kill(event: events.Event) -> None:
        if event.kind == "advance" and event.fields["done"] == 5:
            raise KeyboardInterrupt

    whole = run()
    with pytest.raises(KeyboardInterrupt), events.listen(kill):
        run(checkpoint=tmp_path)
    resumed = run(checkpoint=tmp_path)
    theirs = dict(resumed.named_parameters())
    for name, parameter in whole.named_parameters():
        assert torch.equal(theirs[name], parameter), name
    for name, tensor in adapter.state(whole).items():
        assert torch.equal(adapter.state(resumed)[name], tensor), name
