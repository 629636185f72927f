from __future__ import annotations

import itertools

import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.data.encoded import Encoded
from posttrain.data.packing import chunk_text, pack, passes


def sequence(length: int, start: int = 0) -> Encoded:
    """Tokens start, start + 1, …; all but the first learned."""
    return Encoded(list(range(start, start + length)), [False, *[True] * (length - 1)])


def test_pack_by_hand():
    """Two segments: 10 11 12 with loss on 12 only, and 20 21 with loss on 21.

    Position 0 would predict 11, which carries no loss; position 1 predicts 12; position 2 is the last of its segment
    and doesn't predict 20; position 3 predicts 21.
    """
    packed = pack([Encoded([10, 11, 12], [False, False, True]), Encoded([20, 21], [False, True])])
    assert packed.input_ids.tolist() == [10, 11, 12, 20, 21]
    assert packed.targets.tolist() == [-100, 12, -100, 21, -100]
    assert packed.boundaries.tolist() == [0, 3, 5]
    assert packed.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert packed.segment_ids.tolist() == [0, 0, 0, 1, 1]
    assert packed.lengths.tolist() == [3, 2]
    assert (packed.tokens, packed.segments, packed.loss_tokens, packed.longest) == (5, 2, 2, 3)
    moved = packed.to("meta")
    assert moved.input_ids.device.type == moved.position_ids.device.type == "meta"
    assert (moved.loss_tokens, moved.longest) == (2, 3)
    assert {t.dtype for t in (packed.input_ids, packed.targets, packed.boundaries, packed.position_ids)} == {
        torch.int64
    }


def test_a_first_token_is_never_a_target():
    assert pack([Encoded([1, 2], [True, False])]).targets.tolist() == [-100, -100]


def test_extras_per_segment_and_per_token():
    items = [
        Encoded([1, 2], [False, True], extras={"reward": 0.5, "old": [0.0, 1.0]}),
        Encoded([3], [False], extras={"reward": 2.0, "old": [7.0]}),
    ]
    extras = pack(items).extras
    assert extras["reward"].tolist() == [0.5, 2.0]
    assert extras["old"].tolist() == [0.0, 1.0, 7.0]
    assert pack(items).to("cpu").extras["old"].tolist() == [0.0, 1.0, 7.0]


@pytest.mark.parametrize(
    ("extras", "problem"),
    [
        (({"a": 1.0}, {}), "extra 'a' must be given for every sequence"),
        (({}, {"a": 1.0}), "extra 'a' must be given for every sequence"),
        (({"a": [1.0, 2.0]}, {"a": 1.0}), "in the same form"),
        (({"a": 1.0}, {"a": [1.0, 2.0]}), "in the same form"),
        (({"a": [1.0]}, {"a": [1.0, 2.0]}), "extra 'a' has 1 values for 2 tokens"),
    ],
)
def test_extras_that_do_not_fit_are_refused(extras: tuple[dict[str, object], dict[str, object]], problem: str):
    with pytest.raises(ValueError, match=problem):
        pack([Encoded([1, 2], [False, True], extras=extra) for extra in extras])


def test_pack_refuses_nothing_and_empty_sequences():
    for items in ([], [Encoded([], [])]):
        with pytest.raises(ValueError, match="at least one sequence"):
            pack(items)


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([4, 4, 4, 4], 16, [[4, 4, 4, 4]]),
        ([4, 4, 4, 4], 12, [[4, 4], [4, 4]]),  # 12 + 4 would fill the first pass; 8 + 8 is as few and even
        ([5, 1, 1, 5], 8, [[5, 1], [1, 5]]),  # not 7 + 5
        ([9, 2, 2], 8, [[9], [2, 2]]),  # longer than the budget: alone
        ([2, 9, 2], 8, [[2], [9], [2]]),
        ([3], 8, [[3]]),
        ([9, 9], 8, [[9], [9]]),
    ],
)
def test_passes_by_hand(lengths: list[int], budget: int, expected: list[list[int]]):
    found = passes([sequence(length) for length in lengths], budget)
    assert [[len(item) for item in part] for part in found] == expected


def test_passes_are_optimal_against_every_split():
    """Of all 2^6 consecutive splits of random batches, none in the budget has fewer passes or a shorter longest one."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        lengths = torch.randint(1, 10, (7,), generator=generator).tolist()
        budget = int(torch.randint(9, 25, (1,), generator=generator))
        items = [sequence(length) for length in lengths]
        best = min(
            (len(parts), max(map(sum, parts)))
            for cuts in itertools.product((False, True), repeat=6)
            if max(map(sum, parts := split(lengths, cuts))) <= budget
        )
        found = passes(items, budget)
        assert [item for part in found for item in part] == items
        assert (len(found), max(sum(map(len, part)) for part in found)) == best


def split(lengths: list[int], cuts: tuple[bool, ...]) -> list[list[int]]:
    parts = [[lengths[0]]]
    for length, cut in zip(lengths[1:], cuts):
        if cut:
            parts.append([])
        parts[-1].append(length)
    return parts


def test_chunks_overlap_by_one_so_that_each_token_is_learned_once():
    chunks = chunk_text([1, 2, 3, 4, 5, 6], 3, "a.txt:1")
    assert [chunk.input_ids for chunk in chunks] == [[1, 2, 3], [3, 4, 5], [5, 6]]
    learned = [token for chunk in chunks for token, carries in zip(chunk.input_ids, chunk.loss_mask) if carries]
    assert learned == [2, 3, 4, 5, 6]
    assert {chunk.origin for chunk in chunks} == {"a.txt:1"}


def test_chunks_at_the_edges():
    assert [chunk.input_ids for chunk in chunk_text([1, 2, 3], 3)] == [[1, 2, 3]]
    assert [chunk.input_ids for chunk in chunk_text([1, 2, 3, 4], 3)] == [[1, 2, 3], [3, 4]]
    assert [chunk.input_ids for chunk in chunk_text([1], 3)] == [[1]]
    with pytest.raises(BadRequest, match="sequences of 1 tokens"):
        chunk_text([1, 2], 1)
