"""The estimate of pass@k, and completions that somebody has written already."""

from __future__ import annotations

import json
from math import comb
from pathlib import Path

import pytest

from posttrain.bench.given_samples import score_samples
from posttrain.bench.pass_at_k import pass_at_k
from posttrain.core.errors import BadRequest

TASK = """\
summary: "Functions by name; a made-up task with programs as answers."
version: "1"
license: CC0
homepage: none
data: {test: [{files: [items.jsonl]}]}
split: test
type:
  code:
    prompt: "def {{ name }}(x):\\n"
    program: "def {{ name }}(x):\\n{{ completion }}\\nassert {{ name }}(2) == {{ value }}\\n"
    answer: "    return {{ value }}"
    id: name
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "task.yaml").write_text(TASK)
    items = [{"name": "double", "value": 4}, {"name": "cube", "value": 8}]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return tmp_path


def written(folder: Path, *samples: tuple[str, str]) -> Path:
    lines = [json.dumps({"task_id": name, "completion": text}) for name, text in samples]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "samples.jsonl"


@pytest.mark.parametrize(("n", "c", "k"), [(1, 1, 1), (1, 0, 1), (5, 2, 1), (5, 2, 3), (10, 3, 5), (200, 7, 100)])
def test_equals_the_quotient_of_binomial_coefficients(n: int, c: int, k: int) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-12)


def test_by_hand() -> None:
    # 2 of 4 passed; two tries both miss in 1 of 6 pairs.
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(2, 1, 3)


def test_given_samples_are_run(folder: Path) -> None:
    """double passes once in two, cube in both: pass@1 (1/2 + 1) / 2."""
    file = written(
        folder,
        ("double", "    return x + x"),
        ("double", "    return 5"),
        ("cube", "    return x**3"),
        ("cube", "    return x * x * x"),
    )
    result = score_samples(str(folder / "task.yaml"), file, folder, pass_at=(1, 2))
    assert result.score == pytest.approx(0.75)
    assert result.figures["pass@2"].value == 1
    reasons = [[sample["reason"] for sample in item["samples"]] for item in result.items]
    assert reasons == [[None, "exception"], [None, None]]


def test_refusals(folder: Path) -> None:
    task = str(folder / "task.yaml")
    with pytest.raises(BadRequest, match="no sample for 1 of 2 items"):
        score_samples(task, written(folder, ("cube", "")), folder)
    with pytest.raises(BadRequest, match=r"samples.jsonl.*no item 'root'"):
        score_samples(task, written(folder, ("root", "")), folder)
    with pytest.raises(BadRequest, match="pass@2 needs 2"):
        score_samples(task, written(folder, ("cube", ""), ("double", "")), folder, pass_at=(2,))
    with pytest.raises(BadRequest, match="isn't answered by programs"):
        score_samples("handbook_quiz", folder / "samples.jsonl", folder)
