"""The right solutions of HumanEval and MBPP in the sandbox: all must pass, and how long it takes.

    python benchmarks/sandbox.py --data FOLDER
    python benchmarks/sandbox.py --data FOLDER --tasks humaneval

FOLDER holds the tasks' files (``humaneval/HumanEval.jsonl.gz``, ``mbpp/mbpp_test.jsonl.gz``,
``mbpp/sanitized-mbpp.json.gz``). Prints one JSON line: for each task how many solutions there are and how many passed,
the seconds, milliseconds a program, those that failed; and the layers in force, the Python and the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

from posttrain.bench.runner import prepare
from posttrain.bench.task_types.code import Code
from posttrain.core.runtime import machine


def solutions(task: str, data: Path) -> dict[str, Any]:
    """Run a task's own solutions."""
    (plan,) = prepare([task], data, num_fewshot=0)
    type_ = plan.selection.type
    assert isinstance(type_, Code)
    items = [question.item for part in plan.parts for question in part.questions]
    # One sample each is enough, whatever the task draws.
    one = type_.model_copy(update={"samples": 1, "pass_at": (1,)})
    start = time.perf_counter()
    replies = one.judge(items, [[item.text(type_.answer, "answer")] for item in items])
    seconds = time.perf_counter() - start
    failed = {
        reply.record["id"]: reply.record["samples"][0]["detail"] for reply in replies if not reply.record["passed"]
    }
    return {
        "solutions": len(items),
        "passed": len(items) - len(failed),
        "seconds": round(seconds, 2),
        "milliseconds_each": round(1000 * seconds / len(items), 1),
        "failed": failed,
        "layers": list(type_.sandbox.check()),
    }


def main() -> None:
    """Run the tasks and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the tasks' files")
    parser.add_argument("--tasks", nargs="+", default=["humaneval", "mbpp", "mbpp_sanitized"])
    arguments = parser.parse_args()
    found = {task: solutions(task, arguments.data) for task in arguments.tasks}
    layers = next(each["layers"] for each in found.values())
    found = {task: {key: value for key, value in each.items() if key != "layers"} for task, each in found.items()}
    print(json.dumps({**found, "layers": layers, "python": platform.python_version(), "machine": machine()}))


if __name__ == "__main__":
    main()
