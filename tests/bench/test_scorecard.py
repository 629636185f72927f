"""Entries of a scorecard: intervals, who is surely ahead, groups, and choices, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.bench.scorecard import (
    Entry,
    answer_of,
    choice_of,
    counted,
    entry_of,
    gap_if_equal,
    group_means,
    in_columns,
    largest_gap,
    lowest_mean,
    mean_of_means,
    missing,
    repeated,
    surely_best,
    surely_better,
    table_items,
)

HALF = [1.0, 0.0] * 20


def sums(table: object) -> np.ndarray:
    return table_items(table).sum(0, keepdims=True)  # type: ignore[arg-type]


def test_an_entry_of_a_mean() -> None:
    """Of 40 items, half of them right: the standard error is 0.5 / sqrt(40) = 0.079, the interval about ± 0.155."""
    found = entry_of(HALF, by_chance=0.25)
    assert (found.value, found.n, found.by_chance) == (0.5, 40, 0.25)
    assert found.interval is not None
    assert found.interval == pytest.approx((0.345, 0.655), abs=0.03)
    assert found.to_dict()["interval"] == list(found.interval)
    assert "sample" not in found.to_dict() and "reason" not in found.to_dict()


def test_few_items_have_no_interval() -> None:
    assert entry_of([1.0] * 19).interval is None
    assert entry_of([1.0] * 20).interval == (1.0, 1.0)


def test_no_items_and_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        entry_of([])
    with pytest.raises(ValueError, match="finite"):
        entry_of([1.0, float("nan")])


def test_what_is_missing_says_why() -> None:
    found = missing("nobody was asked").to_dict()
    assert (found["value"], found["interval"], found["n"], found["reason"]) == (None, None, 0, "nobody was asked")


def test_ahead_on_the_same_items() -> None:
    """One gets right all that the other does and ten more of forty: every resample with one of the ten is in favour."""
    less = entry_of(HALF)
    more = entry_of([1.0, 0.0] * 10 + [1.0] * 20)
    assert surely_better(more, less) and not surely_better(less, more)
    assert surely_best([less, more]) == 1
    assert not surely_better(less, less) and surely_best([less, less]) is None


def test_difference_by_luck_is_no_lead() -> None:
    """20 items gained and 18 lost of 76: the difference is 0.026 with a standard error of 0.08."""
    one = entry_of([1.0] * 20 + [0.0] * 18 + HALF[:38])
    other = entry_of([0.0] * 20 + [1.0] * 18 + HALF[:38])
    assert one.value > other.value  # type: ignore[operator]
    assert not surely_better(one, other)


def test_few_items_make_nobody_best() -> None:
    assert surely_best([entry_of([1.0] * 19), entry_of([0.0] * 19)]) is None
    assert surely_best([entry_of([1.0] * 20), entry_of([0.0] * 20)]) == 0


def test_directions() -> None:
    """Lower is better for a drop; nearer to a half for a preference, whether above or below."""
    low, high = ([0.1] * 20, [0.9] * 20)
    assert surely_best([entry_of(low, better="lower"), entry_of(high, better="lower")]) == 0
    near, far = [0.4] * 20, [0.8] * 20
    assert surely_best([entry_of(far, better=None, goal=0.5), entry_of(near, better=None, goal=0.5)]) == 1
    assert surely_best([entry_of(low, better=None), entry_of(high, better=None)]) is None


def test_one_must_be_ahead_of_all_that_are_known() -> None:
    best, good, bad, none = (entry_of([1.0] * n + [0.0] * (40 - n)) for n in (39, 38, 10, 0))
    assert surely_best([bad, best, none]) == 1
    assert surely_best([bad, best, good]) is None
    assert surely_best([missing("x"), bad, none]) == 1
    assert surely_best([missing("x"), bad]) is None


def test_counts_and_runs() -> None:
    assert surely_best([counted(100, "bytes"), counted(98, "bytes")]) == 1
    assert surely_best([counted(100, "bytes"), counted(99.5, "bytes")]) is None  # by less than 1 %
    assert surely_best([counted(100, "bytes"), counted(100, "bytes")]) is None
    slow, fast = (repeated(runs, "tokens a second", "higher") for runs in ([10, 11, 9], [40, 41]))
    assert (slow.value, slow.interval) == (11, (9, 11))
    assert surely_best([slow, fast]) is None  # a neighbour on the machine does as much
    assert repeated([3.0, 2.0], "seconds", "lower").value == 2.0
    assert repeated([3.0], "seconds", "lower").interval is None
    # A single measurement has nothing to compare by.
    assert surely_best([Entry(1.0, 1, "seconds", "lower"), Entry(2.0, 1, "seconds", "lower")]) is None


def test_groups_by_hand() -> None:
    """Group 0 gets 1, 1, 0 and group 1 gets 0, 1: means 2/3 and 1/2, their mean 7/12, the gap 1/6."""
    table = in_columns([1, 1, 0, 0, 1], [0, 0, 0, 1, 1], 2)
    assert table.shape == (5, 2) and np.isnan(table).sum() == 5
    assert group_means(sums(table))[0] == pytest.approx([2 / 3, 1 / 2])
    assert mean_of_means(sums(table)) == pytest.approx([7 / 12])
    assert lowest_mean(sums(table)) == pytest.approx([1 / 2])
    assert largest_gap(sums(table)) == pytest.approx([1 / 6])


def test_a_group_that_a_draw_misses_is_left_out_of_it() -> None:
    table = in_columns([1, 0], [0, 0], 2)
    assert np.isnan(group_means(sums(table))[0, 1])
    assert mean_of_means(sums(table)) == pytest.approx([0.5]) and largest_gap(sums(table)) == pytest.approx([0.0])


def test_gap_that_chance_makes() -> None:
    """Within items: 1 and 0 exchanged at random in n items give a gap of |2 B - n| / n, B binomial; for one item always
    1. Between items: one 1 and one 0 in two groups of one each, also always 1."""
    assert gap_if_equal([[1.0, 0.0]]) == 1.0
    assert gap_if_equal(in_columns([1, 0], [0, 1], 2)) == 1.0
    assert gap_if_equal([[1.0, 1.0]] * 5) == 0.0
    # E |2B - 4| / 4 for B ~ Bin(4, 1/2): (4 * 2 + 2 * 8 + 0 * 6) / 16 / 4 = 0.375.
    assert gap_if_equal([[1.0, 0.0]] * 4, draws=20_000) == pytest.approx(0.375, abs=0.01)


def test_groups_drawn_at_random_keep_their_sizes() -> None:
    """9 items of one group and 1 of another, a single 1 among them: the gap is 1 with probability 1/10, else 1/9."""
    table = in_columns([1] + [0] * 9, [0] * 9 + [1], 2)
    assert gap_if_equal(table, draws=20_000) == pytest.approx(0.1 * 1 + 0.9 / 9, abs=0.01)


RECORD = {"choices": ["ab", "abcd"], "logprobs": [-2.0, -3.0], "right": [1], "chosen": {"acc": 0, "acc_norm": 1}}


def test_choices() -> None:
    """acc: exp(-2) against exp(-3), 1 / (1 + 1/e) = 0.731. Per character -1 and -0.75: 1 / (1 + exp(-0.25)) = 0.562."""
    plain, by_length = choice_of(RECORD, "acc"), choice_of(RECORD, "acc_norm")
    assert plain is not None and by_length is not None
    assert (plain.chosen, plain.right, plain.correct) == (0, 1, False)
    assert plain.confidence == pytest.approx(0.7311, abs=1e-4)
    assert by_length.correct and by_length.confidence == pytest.approx(0.5622, abs=1e-4)
    by_bytes = choice_of({**RECORD, "choices": ["éé", "ab"]}, "acc_bytes")  # -2 / 4 and -3 / 2
    assert by_bytes is not None and by_bytes.confidence == pytest.approx(1 / (1 + np.exp(-1.0)))


@pytest.mark.parametrize(
    ("record", "metric"),
    [
        ({"text": "yes"}, "exact_match"),
        ({**RECORD, "right": [0, 1]}, "acc"),
        (RECORD, "acc_mutual_info"),
        ({**RECORD, "logprobs": [-1.0]}, "acc"),
    ],
)
def test_no_choices(record, metric) -> None:
    assert choice_of(record, metric) is None


def test_answers() -> None:
    assert answer_of(RECORD, "acc_norm") == 1
    assert answer_of({"extracted": {"strict": "42"}, "scores": {"strict": 0.0}}, "strict") == "42"
    assert answer_of({"scores": {"acc": 1.0}}, "acc") == 1.0
