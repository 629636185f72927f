"""Plant random secrets in training text, train, and measure how many bits of them the model gives away.

A secret that was never seen reaches x bits of exposure with probability 2^-x, whatever the model.
"""

import argparse
import tempfile
from pathlib import Path

import posttrain
from posttrain.core.catalog import build
from posttrain.data import canaries, dataset
from posttrain.data.writing import write

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="smollm2")
parser.add_argument("--repeats", default="1,16", help="how often secrets are planted, in turn")
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--candidates", type=int, default=256, help="secrets that each is compared with")
options = parser.parse_args()

model = posttrain.load(options.model)
with tempfile.TemporaryDirectory() as scratch:
    secrets, data = Path(scratch) / "canaries.jsonl", Path(scratch) / "data.jsonl"
    made = canaries.make_canaries(4, repeats=[int(each) for each in options.repeats.split(",")])
    canaries.write_canaries(made, secrets)
    story = dataset.read([{"text": each} for each in dataset.read("builtin:prose")[0].text.split("\n\n")])
    write(canaries.plant(story, made).records, data)
    guard = build("guard", {"memorization": {"canaries": str(secrets), "candidates": options.candidates}})
    settings = {"encoding": {"max_length": 128, "too_long": "split"}, "learning_rate": 2e-3, "steps": options.steps}
    for name in ("before", "after"):
        if name == "after":
            model, _ = posttrain.train(model, data, **settings)
        found = guard.inspect(model)
        print(f"{name}: {found.figures['exposed_canaries']} of {found.figures['canaries']} secrets are exposed")
        for row in found.figures["exposures"]:
            place = f"rank {row['rank']} of {row['of']}"
            print(f"  planted {row['repeats']:>2} times: {row['exposure']:4.1f} of {row['most']:.1f} bits, {place}")
