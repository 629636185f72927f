"""Different adapters for different parts of one batch: packed segments, padded rows, what is refused."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import BertConfig, BertModel

from posttrain.adapt import Assignment, activate, adapter_layers, assigned
from posttrain.adapt.lora import Lora
from posttrain.core.errors import BadRequest
from posttrain.models import forward


def _adapted(network):
    """Two adapters, "a" with B all 0.1 and "b" with B all -0.2."""
    for name, value in (("a", 0.1), ("b", -0.2)):
        Lora(rank=2).apply(network, name)
        with torch.no_grad():
            for layer in adapter_layers(network).values():
                layer.B[name].fill_(value)
    return network


def test_hand_worked_tokens():
    """Packed a, base, b, a of 2, 1, 3, 1 tokens: a has 0, 1 and 6, b has 3, 4, 5. As rows of three: a 0 to 2."""
    packed = Assignment(("a", None, "b", "a"), (2, 1, 3, 1))
    tokens = packed.tokens(torch.Size([1, 7]), torch.device("cpu"))
    assert {name: found.tolist() for name, found in tokens.items()} == {"a": [0, 1, 6], "b": [3, 4, 5]}
    padded = packed.tokens(torch.Size([4, 3]), torch.device("cpu"))  # the same segments as padded rows
    assert {name: found.tolist() for name, found in padded.items()} == {"a": [0, 1, 2, 9, 10, 11], "b": [6, 7, 8]}
    rows = Assignment(("a", "b")).tokens(torch.Size([2, 3]), torch.device("cpu"))
    assert {name: found.tolist() for name, found in rows.items()} == {"a": [0, 1, 2], "b": [3, 4, 5]}


def test_packed_segments(tiny_llama):
    """Each segment's hidden states equal those of the sequence alone with its adapter."""
    network = _adapted(tiny_llama.network)
    ids = torch.randint(3, 300, (11,), generator=torch.Generator().manual_seed(0))
    names, lengths = ["b", "a", None, "b"], [3, 5, 1, 2]
    with torch.no_grad():
        expected = []
        for name, segment in zip(names, ids.split(lengths)):
            activate(network, name)
            expected.append(network.model(segment[None]).last_hidden_state[0])
        with assigned(network, names, lengths):
            found = forward.hidden_states(network, ids, torch.tensor([0, 3, 8, 9, 11]))
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_a_network_that_is_padded_instead(monkeypatch):
    """The lengths are those of the packed segments, though the network sees rows as long as the longest one."""
    network = _adapted(
        BertModel(
            BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        ).eval()
    )
    monkeypatch.setattr(forward, "supports_packing", lambda network: False)
    ids, boundaries = torch.arange(3, 12), torch.tensor([0, 2, 6, 9])
    with torch.no_grad():
        with assigned(network, ["a", "b", None], [2, 4, 3]):
            found = forward.hidden_states(network, ids, boundaries)
        for name, start, end in (("a", 0, 2), ("b", 2, 6), (None, 6, 9)):
            activate(network, name)
            alone = network(ids[None, start:end]).last_hidden_state[0]
            torch.testing.assert_close(found[start:end], alone, atol=1e-5, rtol=1e-5)


def test_adapted_embeddings(tiny_llama):
    network = tiny_llama.network
    base = deepcopy(network)
    for name in ("a", "b"):
        Lora(rank=2, targets="embeddings").apply(network, name)
        with torch.no_grad():
            network.model.embed_tokens.A[name].fill_(0.1 if name == "a" else -0.3)
    ids = torch.tensor([[5, 6], [7, 8], [9, 10]])
    with torch.no_grad(), assigned(network, ["b", None, "a"]):
        found = network.model.embed_tokens(ids)
        difference = found - base.model.embed_tokens(ids)
        for row, name, value in ((0, "b", -0.3), (2, "a", 0.1)):
            expected = 8.0 * value * network.model.embed_tokens.B[name].sum(1)  # alpha / r = 16 / 2, both ranks alike
            torch.testing.assert_close(difference[row], expected.expand(2, -1), atol=1e-5, rtol=1e-5)
        assert not difference[1].any()


def test_gradients_reach_the_own_adapter_only(tiny_llama):
    network = _adapted(tiny_llama.network).requires_grad_(True)
    with assigned(network, [None, "b"]):
        network(torch.tensor([[5, 6, 7], [8, 9, 10]])).logits.square().sum().backward()
    for layer in adapter_layers(network).values():
        assert layer.A["a"].grad is None
        assert layer.A["b"].grad.any()


def test_disabled_inside_and_restored_after(tiny_llama):
    network = tiny_llama.network
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with torch.no_grad():
        base = network(ids).logits
        _adapted(network)
        with assigned(network, ["a", "b"]):
            mixed = network(ids).logits
            with Lora().disabled(network):
                assert torch.equal(network(ids).logits, base)
            assert torch.equal(network(ids).logits, mixed)
    assert {layer.active for layer in adapter_layers(network).values()} == {"b"}


def test_what_does_not_fit_is_refused(tiny_llama):
    network = _adapted(tiny_llama.network)
    with pytest.raises(BadRequest, match="no adapter 'c'"), assigned(network, ["a", "c"]):
        pass
    with pytest.raises(BadRequest, match="2 adapters are assigned to 1"), assigned(network, ["a", "b"], [3]):
        pass
    with pytest.raises(BadRequest, match="one a row"), assigned(network, ["a", "b"]):
        network(torch.ones(4, 3, dtype=torch.long))
    with pytest.raises(BadRequest, match=r"of \[2, 3\] tokens"), assigned(network, ["a", "b"], [2, 3]):
        network(torch.ones(1, 4, dtype=torch.long))
