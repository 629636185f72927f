"""Small encoders learn a task from a trained one: from its probabilities and its hidden states.

The first student is made of half of the teacher's blocks. The second is fresh, with 256 features for the teacher's 384,
so a linear map that is trained with it and thrown away afterwards takes its states to the teacher's width.
"""

import argparse
import json
import tempfile
from pathlib import Path

from _answers import labelled

import posttrain

FRESH = {"model_type": "bert", "num_hidden_layers": 3, "hidden_size": 256, "num_attention_heads": 4}
LOSSES = [{"response": {"temperature": 2.0, "alpha": 0.5}}, {"feature": {"map": "uniform", "weight": 0.1}}]

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="minilm")
parser.add_argument("--half", default="layers:3")
parser.add_argument("--steps", type=int, default=40)
options = parser.parse_args()

with tempfile.TemporaryDirectory() as scratch:
    folder = Path(scratch)
    data, config, teacher = labelled("builtin:preferences", folder), folder / "student.json", folder / "teacher"
    config.write_text(json.dumps({**FRESH, "intermediate_size": 1024}), encoding="utf-8")
    shared = {"objective": "sequence_classification", "steps": options.steps, "batch_size": 16, "tokens_per_pass": 2048}
    posttrain.train(options.model, data, adapt="full", learning_rate=1e-4, out=teacher, **shared)
    for student in (options.half, config):
        _, result = posttrain.distill(teacher, student, data, losses=LOSSES, learning_rate=2e-4, **shared)
        print(f"student {Path(student).name}, {1 - 1 / result['size_ratio']:.1%} smaller than the teacher")
        for name in ("teacher", "student", "baseline"):
            found = result[name]
            print(f"  {name:<9} {found['parameters']:>12,} parameters, accuracy {found['accuracy']:.3f}")
