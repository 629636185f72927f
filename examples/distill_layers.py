"""Half of a language model's blocks learn from the whole, beside the same half trained without a teacher."""

import argparse

import posttrain

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--teacher", default="smollm2")
parser.add_argument("--student", default="layers:15", help="layers:N, a configuration file, or a model")
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--out", help="where the student is saved")
options = parser.parse_args()

_, result = posttrain.distill(
    options.teacher,
    options.student,
    "builtin:handbook",
    validation="builtin:handbook_heldout",
    losses={"response": {"temperature": 1.0, "alpha": 0.5}},
    steps=options.steps,
    batch_size=4,
    learning_rate=3e-4,
    out=options.out,
)
print(f"{'model':<9} {'parameters':>12} {'loss':>7} {'tokens/s':>9}")
for name in ("teacher", "student", "baseline"):
    found = result[name]
    print(f"{name:<9} {found['parameters']:>12,} {found['loss']:>7.3f} {found['tokens_per_second']:>9.1f}")
print(f"{result['size_ratio']:.2f} times smaller, {result['speed_ratio']:.2f} times the speed")
print(f"the teacher was worth {result['gained_loss']:+.3f} nats a token")
