"""The same fine-tuning without and with what keeps a model from forgetting: KL to the base, L2 to it, replay.

The rate is high on purpose, so that there is something to forget. The general text that is replayed and the one that
measures forgetting are the two halves of the built-in story.
"""

import argparse
import tempfile
from pathlib import Path

import posttrain
from posttrain.data import dataset

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="smollm2")
parser.add_argument("--steps", type=int, default=6)
options = parser.parse_args()

with tempfile.TemporaryDirectory() as scratch:
    halves = [Path(scratch) / "replayed.txt", Path(scratch) / "measured.txt"]
    paragraphs = dataset.read("builtin:prose")[0].text.split("\n\n")
    for path, part in zip(halves, (paragraphs[::2], paragraphs[1::2])):
        path.write_text("\n\n".join(part), encoding="utf-8")
    replay = {"data": str(halves[0]), "share": 0.25}
    for term in ({}, {"kl_to_base": {"weight": 1.0}}, {"l2_sp": {"weight": 1.0}}, {"replay": replay}):
        settings = {"steps": options.steps, "batch_size": 4, "learning_rate": 1e-2, "forgetting_tokens": 512}
        _, found = posttrain.train(
            options.model,
            "builtin:handbook",
            forgetting=str(halves[1]),
            encoding={"chat": True},
            regularizers=[term] if term else [],
            **settings,
        )
        losses = f"{found['first_loss']:.3f} -> {found['loss']:.3f}"
        print(f"{next(iter(term), 'nothing'):<12} loss {losses}, general text {found['forgetting']:+.3f}")
