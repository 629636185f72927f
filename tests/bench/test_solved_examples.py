"""Solved examples before items: which are chosen, and how the block is put together."""

from __future__ import annotations

import json
import random

import pytest

from posttrain.bench import task
from posttrain.bench.examples import pool, questions
from posttrain.bench.source import read_split
from posttrain.core.errors import BadRequest


def selection(examples, preamble=""):
    values = {
        "summary": "A test.",
        "version": "1",
        "license": "free",
        "homepage": "x",
        "data": {"train": [{"files": ["train.jsonl"]}], "test": [{"files": ["test.jsonl"]}]},
        "split": "test",
        "preamble": preamble,
        "examples": examples,
        "type": {"continuation": {"prompt": "Q{{ n }}", "continuation": "A{{ n }}"}},
    }
    return task.Selection("own", task.Path("own.yaml"), task.Task.parse(values), {})


@pytest.fixture
def folder(tmp_path):
    """30 rows to take examples from, numbered from 100, and 6 to ask about, numbered from 0."""
    for name, first, count in (("train", 100, 30), ("test", 0, 6)):
        rows = [json.dumps({"n": first + i}) + "\n" for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    return tmp_path


def preambles(own, folder, number=None):
    items = read_split(own, ["test"], None, folder).items
    return [question.preamble for question in questions(own, items, pool(own, None, folder, number))]


def block(numbers):
    return "".join(f"Q{n} A{n}\n\n" for n in numbers)


def test_the_first_ones(folder):
    own = selection({"from": ["train"], "draw": "first", "number": 2}, preamble="About {{ n }}.\n")
    assert preambles(own, folder) == [f"About {n}.\n{block([100, 101])}" for n in range(6)]
    assert preambles(own, folder, 0) == [f"About {n}.\n" for n in range(6)]
    assert preambles(own, folder, 1)[0] == f"About 0.\n{block([100])}"


def test_the_first_ones_of_the_same_split_leave_the_item_out(folder):
    own = selection({"from": ["test"], "draw": "first", "number": 2})
    expected = [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 1]]
    assert preambles(own, folder) == [block(numbers) for numbers in expected]


def test_random_draws_are_one_generator_s(folder):
    """One generator with the seed 1234, one draw of three an item, as lm-evaluation-harness does it."""
    own = selection({"from": ["train"], "number": 3})
    generator = random.Random(1234)
    rows = list(range(100, 130))
    assert preambles(own, folder) == [block(generator.sample(rows, 3)) for _ in range(6)]


def test_a_spare_example(folder):
    own = selection({"from": ["train"], "number": 3, "spare": True, "seed": 7})
    generator = random.Random(7)
    rows = list(range(100, 130))
    assert preambles(own, folder) == [block(generator.sample(rows, 4)[:3]) for _ in range(6)]


def test_random_draws_of_the_same_split_leave_the_item_out(folder):
    """One more is drawn, so that the item itself can go."""
    own = selection({"from": ["test"], "number": 4})
    generator = random.Random(1234)
    draws = [generator.sample(range(6), 5) for _ in range(6)]
    expected = [block([n for n in draw if n != item][:4]) for item, draw in enumerate(draws)]
    assert preambles(own, folder) == expected
    assert any(item in draw for item, draw in enumerate(draws))


def test_fixed_ones(folder):
    own = selection({"fixed": [{"n": 1}, {"n": 2}], "number": 2, "draw": "first"})
    assert preambles(own, folder) == [block([1, 2])] * 6


def test_refusals(folder):
    with pytest.raises(BadRequest, match="own is asked without examples, so it can't get 3"):
        pool(selection(None), None, folder, 3)
    with pytest.raises(BadRequest, match=r"own has 30 examples \(train\), which isn't enough for 31"):
        pool(selection({"from": ["train"]}), None, folder, 31)
    with pytest.raises(BadRequest, match=r"own has 6 examples \(test\), which isn't enough for 6"):
        pool(selection({"from": ["test"]}), None, folder, 6)
    with pytest.raises(BadRequest, match=r"'prompt' doesn't work for own.yaml: examples.fixed\[0\]"):
        preambles(selection({"fixed": [{"m": 1}], "number": 1}), folder)
