"""A model and its 4-bit form side by side: accuracy, calibration, robustness, bias, speed and size, on one page."""

import argparse

import posttrain

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="smollm2")
parser.add_argument("--limit", type=int, default=10, help="items of the quiz; from 20 on there are intervals")
parser.add_argument("--out", default="runs/scorecard", help="where the 4-bit model and the page go")
options = parser.parse_args()

small = f"{options.out}/int4"
posttrain.quantize(options.model, {"rtn": {"bits": 4, "group_size": 64}}, out=small, max_tokens=256)

dimensions = [
    "accuracy",
    "calibration",
    {"robustness": {"perturbations": ["typos"]}},
    "bias",
    {"efficiency": {"new_tokens": 12, "prompt_tokens": 64, "repeats": 2}},
]
page = f"{options.out}/scorecard.html"
card = posttrain.scorecard([options.model, small], dimensions=dimensions, limit=options.limit, out=page)

for dimension, best in card["best"].items():
    for figure, name in best.items():
        before, after = (found[dimension][figure]["value"] for found in card["models"].values())
        if before is not None and after is not None:
            ahead = f"  surely better: {name}" if name else ""
            print(f"{dimension:>12} {figure:<28} {before:>14.5g} {after:>14.5g}{ahead}")
print(f"\n{card['how']['calibration']}\n\nThe page: {page}")
