"""A policy's log-probabilities, and dropout."""

from __future__ import annotations

import torch

from posttrain.align.policy import score_tokens, without_dropout
from posttrain.data.encoded import Encoded
from posttrain.data.packing import pack


def test_log_probabilities_and_entropies(tiny_llama):
    batch = pack([Encoded([5, 6, 7, 8], [False, False, True, True]), Encoded([9, 10], [False, True])])
    with torch.no_grad():
        found = score_tokens(tiny_llama.network, batch)
        rows = [tiny_llama.network(torch.tensor([ids])).logits[0].log_softmax(-1) for ids in ([5, 6, 7, 8], [9, 10])]
    chosen = torch.stack([rows[0][1], rows[0][2], rows[1][0]])
    torch.testing.assert_close(found.logprobs, chosen[range(3), [7, 8, 10]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.entropies, -(chosen.exp() * chosen).sum(-1), atol=1e-4, rtol=1e-4)


def test_dropout_goes_but_recomputing_stays(tiny_llama):
    network = tiny_llama.network
    network.gradient_checkpointing_enable()
    network.train()
    without_dropout(network)
    layer = network.model.layers[0]
    assert layer.training and not layer.self_attn.training and not layer.mlp.training
    network.gradient_checkpointing_disable()
    without_dropout(network)
    assert not any(module.training for module in network.modules())
