"""The cache by itself, driven as a network would drive it."""

from __future__ import annotations

import pytest
import torch

from posttrain.decode.kv_cache import KeyValueCache

CPU = torch.device("cpu")


def states(*values: float, heads: int = 2) -> torch.Tensor:
    """[1, heads, len(values), 3] whose entries name the token, the second head negated."""
    tokens = torch.tensor(values)[None, None, :, None].expand(1, heads, -1, 3)
    return tokens * torch.tensor([1.0, -1.0][:heads])[None, :, None, None]


def filled() -> KeyValueCache:
    """Rows [1, 2, 3] and [11]."""
    cache = KeyValueCache()
    cache.begin_prefill([3, 1], CPU)
    keys, values = cache.update(states(1, 2, 3, 11), 10 * states(1, 2, 3, 11), 0)
    assert keys.shape == values.shape == (1, 2, 4, 3)  # a prefill attends to what it brings
    return cache


def add(cache: KeyValueCache, *tokens: float) -> torch.Tensor:
    """Add a token to each row; returns the keys of the first head, [B, width]."""
    cache.begin_step(1, CPU)
    new = torch.cat([states(token) for token in tokens])
    keys, values = cache.update(new, 10 * new, 0)
    torch.testing.assert_close(values, 10 * keys)
    torch.testing.assert_close(keys[:, 1], -keys[:, 0])
    return keys[:, 0, :, 0]


def test_rows_of_unequal_length_and_the_mask_that_tells_them_apart() -> None:
    cache = filled()
    keys = add(cache, 4, 12)
    assert cache.lengths == [4, 2]
    assert keys[0].tolist() == [1, 2, 3, 4]
    assert keys[1, :2].tolist() == [11, 12]
    now = cache.begin_step(1, CPU)  # positions 4 and 2, width 5
    assert now.positions.tolist() == [[4], [2]]
    mask = now.mask(None, torch.float32)
    assert mask is not None
    assert (mask[:, 0, 0] == 0).tolist() == [[True] * 5, [True, True, True, False, False]]
    window = now.mask(2, torch.float32)
    assert window is not None
    assert (window[:, 0, 0] == 0).tolist() == [[False, False, False, True, True], [False, True, True, False, False]]


def test_no_mask_where_all_is_visible() -> None:
    cache = KeyValueCache()
    cache.begin_prefill([3, 3], CPU)
    now = cache.begin_step(1, CPU)
    assert now.mask(None, torch.float32) is None
    assert now.mask(4, torch.float32) is None
    assert now.mask(3, torch.float32) is not None


def test_several_tokens_do_not_see_their_future() -> None:
    cache = KeyValueCache()
    cache.begin_prefill([1], CPU)
    mask = cache.begin_step(3, CPU).mask(None, torch.float32)
    assert mask is not None
    assert (mask[0, 0] == 0).tolist() == [[True, True, False, False], [True, True, True, False], [True] * 4]


def test_select_and_truncate() -> None:
    cache = filled()
    cache.select([1, 0, 0])
    keys = add(cache, 12, 4, 5)
    assert keys[0, :2].tolist() == [11, 12]
    assert keys[1].tolist() == [1, 2, 3, 4]
    assert keys[2].tolist() == [1, 2, 3, 5]
    cache.truncate([2, 1, 3])
    cache.select([2, 1])
    keys = add(cache, 6, 7)
    assert keys[0].tolist() == [1, 2, 3, 6]
    assert keys[1, :2].tolist() == [1, 7]
    cache.select([])
    assert cache.lengths == []


def test_only_what_a_row_does_not_hold_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of one prompt of 40 tokens that parted 2 tokens ago: these 2 are copied, and of another row all."""
    copied: list[list[tuple[int, int, int]]] = []
    copy = KeyValueCache._copy
    monkeypatch.setattr(KeyValueCache, "_copy", lambda self, moves: copied.append(moves) or copy(self, moves))
    cache = KeyValueCache()
    cache.begin_prefill([40, 3], CPU)
    cache.update(states(*range(40), 91, 92, 93), 10 * states(*range(40), 91, 92, 93), 0)
    cache.select([0, 0, 1])
    assert copied.pop() == [(1, 0, 0), (2, 1, 0)]  # row 1 held another prompt, row 2 nothing
    add(cache, 50, 60, 94)
    add(cache, 51, 61, 95)
    cache.select([1, 1, 2])
    assert copied.pop() == [(0, 1, 40)]
    cache.select([1, 0, 2])
    assert copied == []  # they are alike
    keys = add(cache, 52, 62, 96)
    assert keys[0].tolist() == [*range(40), 60, 61, 52]
    assert keys[1].tolist() == [*range(40), 60, 61, 62]
    assert keys[2, :6].tolist() == [91, 92, 93, 94, 95, 96]
    cache.truncate([41, 43, 6])
    keys = add(cache, 70, 71, 97)
    cache.select([1, 0, 2])  # they part where the first was cut, not where it was written last
    assert copied.pop() == [(0, 1, 41), (1, 0, 41)]
    keys = add(cache, 72, 73, 98)
    assert keys[0].tolist() == [*range(40), 60, 61, 62, 71, 72]
    assert keys[1, :43].tolist() == [*range(40), 60, 70, 73]


def test_growth_keeps_the_content_and_copies_seldom() -> None:
    cache = filled()
    sizes = {cache.nbytes()}
    for step in range(300):
        keys = add(cache, 100 + step, 1000 + step)
        sizes.add(cache.nbytes())
    assert keys[0].tolist() == [1, 2, 3, *range(100, 400)]
    assert keys[1, :301].tolist() == [11, *range(1000, 1300)]
    assert len(sizes) <= 5  # 67 places, doubled until 303 fit


def test_what_is_hidden_can_never_become_not_a_number() -> None:
    """A masked place has weight 0, and 0 times the NaN of uninitialised memory would be NaN."""
    cache = filled()
    cache.begin_step(1, CPU)
    keys, values = cache.update(torch.cat([states(4), states(12)]), torch.cat([states(4), states(12)]), 0)
    assert torch.isfinite(keys).all()
    assert torch.isfinite(values).all()
