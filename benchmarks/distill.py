"""What a teacher is worth: a student beside the same student trained without one, at equal steps on the same data.

    python benchmarks/distill.py --case lm
    python benchmarks/distill.py --case sst2 --data FOLDER [--teacher FOLDER]

`lm`: half of SmolLM2's blocks (30 to 15) on the built-in story or any other text; held-out loss. `sst2`: MiniLM,
fine-tuned on SST-2 if no teacher is given, and half of its blocks (6 to 3); accuracy and inference time. The folder
holds stsa.binary.train, .dev and .test, one "label text" a line, plain or .gz. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sst2 import rows

import posttrain
from posttrain.core.runtime import machine


def lm(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """SmolLM2 with half of its blocks."""
    _, result = posttrain.distill(
        arguments.teacher or "smollm2",
        arguments.student or "layers:15",
        arguments.data or "builtin:prose",
        validation=arguments.validation,
        held_out=0.2,
        losses=losses(arguments, temperature=1.0, alpha=0.3, feature=3.0),
        encoding={"max_length": 129, "too_long": "split"},
        steps=arguments.steps or 24,
        batch_size=4,
        tokens_per_pass=1024,
        learning_rate=arguments.learning_rate or 2e-4,
        schedule={"cosine": {"warmup": 0.1}},
        seed=arguments.seed,
    )
    return result


def sst2(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """MiniLM with half of its blocks."""
    train, held_out, test = (labelled(Path(arguments.data), part, scratch) for part in ("train", "dev", "test"))
    start = time.perf_counter()
    teacher = arguments.teacher
    if teacher is None:
        settings = {"objective": "sequence_classification", "adapt": "full", "batch_size": 32, "tokens_per_pass": 4096}
        teacher = scratch / "teacher"
        posttrain.train(
            "minilm",
            train,
            epochs=2,
            learning_rate=1e-4,
            schedule={"linear": {"warmup": 0.1}},
            validation=str(held_out),
            out=teacher,
            seed=arguments.seed,
            **settings,
        )
    seconds = time.perf_counter() - start
    _, result = posttrain.distill(
        teacher,
        arguments.student or "layers:3",
        train,
        validation=str(test),
        objective="sequence_classification",
        losses=losses(arguments, temperature=4.0, alpha=0.3, feature=1.0),
        batch_size=32,
        tokens_per_pass=4096,
        **({"steps": arguments.steps} if arguments.steps else {"epochs": 2.0}),
        learning_rate=arguments.learning_rate or 2e-4,
        schedule={"linear": {"warmup": 0.1}},
        seed=arguments.seed,
    )
    return {**result, "teacher_seconds": seconds, "time_ratio": 1 / result["speed_ratio"]}


def losses(arguments: argparse.Namespace, temperature: float, alpha: float, feature: float) -> list[dict[str, Any]]:
    """The teacher's probabilities and hidden states; what the command line says comes before the case's own values."""
    if arguments.feature is not None:
        feature = arguments.feature
    response = {
        "temperature": arguments.temperature or temperature,
        "alpha": alpha if arguments.alpha is None else arguments.alpha,
    }
    return [{"response": response}, *([{"feature": {"distance": "cosine", "weight": feature}}] if feature else [])]


def labelled(folder: Path, split: str, scratch: Path) -> Path:
    """One split of SST-2 as JSON lines of text and label."""
    out = scratch / f"{split}.jsonl"
    out.write_text("".join(json.dumps(record) + "\n" for record in rows(folder, split)), encoding="utf-8")
    return out


def main() -> None:
    """Run one case and print its JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=["lm", "sst2"], required=True)
    parser.add_argument("--data", help="lm: a file or builtin:NAME; sst2: the folder")
    parser.add_argument("--validation", help="lm: held-out data; by default a tenth of the data")
    parser.add_argument("--teacher", help="a trained teacher")
    parser.add_argument("--student", help="another student")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--alpha", type=float)
    parser.add_argument("--feature", type=float, help="weight of the feature loss")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        result = {"lm": lm, "sst2": sst2}[arguments.case](arguments, Path(scratch))
    for key in ("history", "evaluations"):
        result.pop(key)
    report = {"benchmark": "distill", "case": arguments.case, "settings": vars(arguments), **result}
    print(json.dumps({**report, "total_seconds": time.perf_counter() - start, "machine": machine()}))


if __name__ == "__main__":
    main()
