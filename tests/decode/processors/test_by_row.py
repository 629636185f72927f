"""A temperature for each row: as one by one, with frozen rows among them."""

from __future__ import annotations

import torch

from posttrain.decode.processors._by_row import divide


def test_each_row_by_its_own() -> None:
    logits = torch.tensor([[2.0, 1.0, -torch.inf], [2.0, 1.0, 0.0], [4.0, 4.0, 3.0]])
    found = divide(logits, [0.5, 2.0, 0.0])
    assert found.tolist() == [[4.0, 2.0, -torch.inf], [1.0, 0.5, 0.0], [4.0, -torch.inf, -torch.inf]]


def test_temperatures_may_be_a_tensor_and_one_changes_nothing() -> None:
    logits = torch.tensor([[0.3, -torch.inf], [1e4, -1e4]])
    assert torch.equal(divide(logits, torch.ones(2)), logits)


def test_the_smallest_ones_freeze() -> None:
    logits = torch.tensor([[-3e4, 3e4]])
    assert divide(logits, [1e-30]).tolist() == [[-torch.inf, 3e4]]
    assert divide(logits, [1e-6]).softmax(-1).tolist() == [[0.0, 1.0]]
