"""Half of an encoder learns a task from the whole: from its probabilities and its hidden states.

A configuration file as --student makes a fresh network of any depth and width, which needs far more data; a linear map
that is trained with it and thrown away afterwards then takes its hidden states to the teacher's width.
"""

import argparse
import tempfile
from pathlib import Path

from _answers import labelled

import posttrain

LOSSES = {"response": {"temperature": 2.0, "alpha": 0.3}, "feature": {"map": "uniform", "distance": "cosine"}}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="minilm")
parser.add_argument("--student", default="layers:3")
parser.add_argument("--steps", type=int, default=60)
options = parser.parse_args()

with tempfile.TemporaryDirectory() as scratch:
    data, held_out = (labelled(f"builtin:{name}", Path(scratch)) for name in ("preferences", "preferences_heldout"))
    shared = {"objective": "sequence_classification", "steps": options.steps, "batch_size": 16, "tokens_per_pass": 2048}
    teacher = Path(scratch) / "teacher"
    posttrain.train(options.model, data, adapt="full", learning_rate=1e-4, out=teacher, **shared)
    more = {"validation": str(held_out), "learning_rate": 2e-4, "schedule": {"linear": {"warmup": 0.1}}}
    _, result = posttrain.distill(teacher, options.student, data, losses=LOSSES, **more, **shared)
for name in ("teacher", "student", "baseline"):
    found = result[name]
    print(
        f"{name:<9} {found['parameters']:>12,} parameters, loss {found['loss']:.3f}, accuracy {found['accuracy']:.3f}"
    )
print(f"{1 - 1 / result['size_ratio']:.1%} smaller than the teacher")
