from __future__ import annotations

import itertools
import json

import pytest

from posttrain.core.errors import BadRequest
from posttrain.data.collate import Batches, padded
from posttrain.data.encoded import Encoded
from posttrain.data.packing import Packed, pack


def items(count: int, length: int = 2) -> list[Encoded]:
    """Sequences whose every token is their index."""
    return [Encoded([index] * length, [False] + [True] * (length - 1)) for index in range(count)]


def indices(step: list[Packed]) -> list[int]:
    """Which items a step holds."""
    return [int(part.input_ids[start]) for part in step for start in part.boundaries[:-1]]


def take(batches: Batches[Packed], steps: int) -> list[list[int]]:
    return [indices(step) for step in itertools.islice(batches, steps)]


def test_without_shuffling_the_order_is_the_files_and_the_last_step_is_kept():
    batches = Batches(items(5), batch_size=2, tokens_per_pass=100, shuffle=False)
    assert len(batches) == 3
    assert take(batches, 4) == [[0, 1], [2, 3], [4], [0, 1]]


def test_drop_last_leaves_the_partial_step_out():
    batches = Batches(items(5), batch_size=2, tokens_per_pass=100, shuffle=False, drop_last=True)
    assert len(batches) == 2
    assert take(batches, 3) == [[0, 1], [2, 3], [0, 1]]


def test_every_epoch_has_every_item_once_in_an_order_of_its_own():
    steps = take(Batches(items(20), batch_size=4, tokens_per_pass=100, seed=3), 10)
    first, second = (list(itertools.chain(*part)) for part in (steps[:5], steps[5:]))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second != list(range(20))


def test_the_order_depends_on_the_seed_alone():
    def order(seed: int) -> list[list[int]]:
        return take(Batches(items(20), batch_size=4, tokens_per_pass=100, seed=seed), 7)

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize("done", [0, 1, 4, 5, 6, 12])
def test_resuming_goes_on_where_it_stopped(done: int):
    """Five steps per epoch, so 5 is the end of an epoch and 12 lies in the third."""
    whole = take(Batches(items(20), batch_size=4, tokens_per_pass=100), 20)
    first = Batches(items(20), batch_size=4, tokens_per_pass=100)
    take(first, done)
    state = json.loads(json.dumps(first.state_dict()))
    assert state == {"epoch": done // 5, "index": done % 5}
    second = Batches(items(20), batch_size=4, tokens_per_pass=100)
    second.load_state_dict(state)
    assert take(second, 20 - done) == whole[done:]


def test_iterating_again_goes_on():
    batches = Batches(items(4), batch_size=1, tokens_per_pass=100, shuffle=False)
    assert take(batches, 1) + take(batches, 2) == [[0], [1], [2]]


def test_a_position_that_does_not_exist_is_refused():
    batches = Batches(items(4), batch_size=2, tokens_per_pass=100)
    with pytest.raises(BadRequest, match="step 2 of epoch 0, doesn't exist: an epoch has 2 steps"):
        batches.load_state_dict({"epoch": 0, "index": 2})


def test_a_step_is_split_into_passes():
    batches = Batches(items(4, length=3), batch_size=4, tokens_per_pass=6, shuffle=False)
    (step,) = itertools.islice(batches, 1)
    assert [part.tokens for part in step] == [6, 6]
    assert indices(step) == [0, 1, 2, 3]


def test_collate_makes_the_passes():
    batches = Batches(items(3), batch_size=3, tokens_per_pass=4, shuffle=False, collate=len)
    assert next(iter(batches)) == [2, 1]


def test_sizes_that_make_no_step_are_refused():
    with pytest.raises(BadRequest, match="2 sequences make no batch of 3"):
        Batches(items(2), batch_size=3, tokens_per_pass=10, drop_last=True)
    with pytest.raises(BadRequest, match="must be at least 1"):
        Batches(items(2), batch_size=0, tokens_per_pass=10)


def test_padded_by_hand():
    """Segments 10 11 12 (loss on 12), 20 21 (loss on 21) and, from a second pack, 30."""
    packs = [
        pack([Encoded([10, 11, 12], [False, False, True]), Encoded([20, 21], [False, True])]),
        pack([Encoded([30], [False])]),
    ]
    rows = padded(packs, pad_id=9)
    assert rows["input_ids"].tolist() == [[10, 11, 12], [20, 21, 9], [30, 9, 9]]
    assert rows["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert rows["targets"].tolist() == [[-100, 12, -100], [21, -100, -100], [-100, -100, -100]]
    assert padded(packs[0], 9)["input_ids"].tolist() == [[10, 11, 12], [20, 21, 9]]
