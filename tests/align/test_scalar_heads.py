"""Scalar heads: zero at first, a module of the network, a folder of their own."""

from __future__ import annotations

import pytest
import torch

from posttrain.align import heads
from posttrain.core.errors import BadRequest


def test_a_head_is_zero_and_trainable(tiny_llama):
    names = set(tiny_llama.network.state_dict())
    tiny_llama.network.requires_grad_(False)
    head = heads.attach(tiny_llama.network, "value_head")
    assert torch.equal(head(torch.randn(3, 64, dtype=torch.bfloat16)), torch.zeros(3))
    trainable = [name for name, p in tiny_llama.network.named_parameters() if p.requires_grad]
    assert trainable == ["value_head.weight", "value_head.bias"]
    assert heads.detach(tiny_llama.network, "value_head") is head
    assert set(tiny_llama.network.state_dict()) == names
    with pytest.raises(TypeError, match="no head"):
        heads.head_of(tiny_llama.network, "value_head")


def test_saved_and_loaded(tiny_llama, tmp_path):
    head = heads.attach(tiny_llama.network, "value_head")
    torch.nn.init.normal_(head.weight)
    heads.save(heads.detach(tiny_llama.network, "value_head"), tmp_path, "value_head")
    heads.load(tiny_llama.network, tmp_path, "value_head")
    found = heads.head_of(tiny_llama.network, "value_head")
    assert torch.equal(found.weight, head.weight) and not found.weight.requires_grad
    with pytest.raises(BadRequest, match="has no reward_head"):
        heads.load(tiny_llama.network, tmp_path, "reward_head")
