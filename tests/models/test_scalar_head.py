"""Scalar heads: zero at first, a module of the network, a folder of their own."""

from __future__ import annotations

import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.models import scalar_head


def test_a_head_is_zero_and_trainable(tiny_llama):
    names = set(tiny_llama.network.state_dict())
    tiny_llama.network.requires_grad_(False)
    head = scalar_head.attach(tiny_llama.network, "value_head")
    assert torch.equal(head(torch.randn(3, 64, dtype=torch.bfloat16)), torch.zeros(3))
    trainable = [name for name, p in tiny_llama.network.named_parameters() if p.requires_grad]
    assert trainable == ["value_head.weight", "value_head.bias"]
    assert scalar_head.detach(tiny_llama.network, "value_head") is head
    assert set(tiny_llama.network.state_dict()) == names
    with pytest.raises(TypeError, match="no head"):
        scalar_head.head_of(tiny_llama.network, "value_head")


def test_saved_and_loaded(tiny_llama, tmp_path):
    head = scalar_head.attach(tiny_llama.network, "value_head")
    torch.nn.init.normal_(head.weight)
    scalar_head.save(scalar_head.detach(tiny_llama.network, "value_head"), tmp_path, "value_head")
    scalar_head.load(tiny_llama.network, tmp_path, "value_head")
    found = scalar_head.head_of(tiny_llama.network, "value_head")
    assert torch.equal(found.weight, head.weight) and not found.weight.requires_grad
    assert found.chat is None
    with pytest.raises(BadRequest, match="has no reward_head"):
        scalar_head.load(tiny_llama.network, tmp_path, "reward_head")


@pytest.mark.parametrize("chat", [True, False])
def test_it_remembers_whether_it_was_trained_on_chats(tiny_llama, tmp_path, chat):
    scalar_head.attach(tiny_llama.network, "reward_head").chat = chat
    scalar_head.save(scalar_head.detach(tiny_llama.network, "reward_head"), tmp_path, "reward_head")
    assert scalar_head.load(tiny_llama.network, tmp_path, "reward_head").chat is chat
