"""`posttrain pass-at-k`, which is told of its work in tests/bench/test_pass_at_k.py."""

from __future__ import annotations

import json

import pytest

from posttrain.bench.sandbox import Sandbox
from posttrain.cli.commands import pass_at_k
from posttrain.core.errors import BadRequest, Failure

TASK = """\
extends: humaneval
summary: "One function; three of six samples are right."
data: {test: [{files: [problem.jsonl]}]}
"""
PROBLEM = {
    "task_id": "t/0",
    "prompt": "def one():\n",
    "test": "def check(f):\n    assert f() == 1",
    "entry_point": "one",
}
SAMPLES = [
    *("    import subprocess\n    subprocess.check_output('rm -rf tmp')", "    import time\n    time.sleep(60)"),
    *("    return input('a number')", "    return 1", "  return 1", "\treturn 1"),
]


@pytest.fixture
def folder(tmp_path):
    try:
        Sandbox().check()
    except (BadRequest, Failure) as refused:
        pytest.skip(str(refused))
    settings = {
        "program": "{{ prompt }}{{ completion }}\n{{ test }}\ncheck({{ entry_point }})",
        "prompt": "{{ prompt }}",
        "answer": "    return 1",
        "sandbox": {"wall_seconds": 3},
    }
    (tmp_path / "one.yaml").write_text(TASK + f"type: {json.dumps({'code': settings})}\n")
    (tmp_path / "problem.jsonl").write_text(json.dumps(PROBLEM) + "\n")
    samples = [json.dumps({"task_id": "t/0", "completion": text}) for text in SAMPLES]
    (tmp_path / "samples.jsonl").write_text("\n".join(samples) + "\n")
    return tmp_path


def test_json(invoke, folder):
    """A program that deletes, one that sleeps, one that asks, and three that are right: pass@1 is 3 / 6.

    pass@4 misses only if all 4 of a draw are wrong, which 3 wrong ones can't be.
    """
    words = ["pass-at-k", folder / "one.yaml", folder / "samples.jsonl", "--data", folder, "--k", 1, 4]
    found = invoke(*words, "--json", "--out", folder / "items.jsonl").json
    assert found["score"] == pytest.approx(0.5)
    assert (found["metric"], found["n"], found["programs"]) == ("pass@1", 1, 6)
    assert found["metrics"]["pass@4"]["value"] == 1
    assert found["failures"] == {"forbidden": 1, "timeout": 1, "exception": 1}
    assert "|sandbox:" in found["signature"] and "|samples:" in found["signature"]
    (item,) = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    assert [sample["passed"] for sample in item["samples"]] == [False] * 3 + [True] * 3


def test_what_is_shown(capsys):
    pass_at_k.show(
        {
            "metrics": {"pass@1": {"value": 0.5, "stderr": 0.1, "interval": None}},
            "n": 2,
            "programs": 4,
            "failures": {"timeout": 2},
            "signature": "humaneval|version:1",
        }
    )
    shown = capsys.readouterr()
    assert "pass@1" in shown.out + shown.err
    assert "timeout 2" in shown.out + shown.err
