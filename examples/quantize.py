"""Rounding to nearest, GPTQ and dynamic int8 side by side: bytes, bits a weight, perplexity, distance, speed."""

import argparse
from pathlib import Path

import posttrain

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="smollm2")
parser.add_argument("--bits", type=int, default=4, help="of rounding to nearest and GPTQ")
parser.add_argument("--tokens", type=int, default=2048, help="of the story that perplexity is measured on")
parser.add_argument("--calibration", default="builtin:prose", help="for GPTQ; of the story, what lies behind --tokens")
parser.add_argument("--rows", type=int, default=11, help="calibration texts of 256 tokens")
parser.add_argument("--out", type=Path, help="a folder to save the models in")
options = parser.parse_args()

GRID = {"bits": options.bits, "group_size": 64}
METHODS = {
    f"rtn, {options.bits} bits": {"rtn": GRID},
    f"gptq, {options.bits} bits": {"gptq": GRID},
    "dynamic, 8 bits": {"dynamic": {}},
}

print(f"{'':<15} {'bytes':>12} {'bits':>6} {'perplexity':>11} {'KL':>8} {'tokens/s':>9} {'seconds':>8}")
for place, (name, method) in enumerate(METHODS.items()):
    out = options.out / next(iter(method)) if options.out else None
    settings = {"max_tokens": options.tokens, "calibration": options.calibration, "calibration_rows": options.rows}
    _, found = posttrain.quantize(options.model, method, out=out, **settings)
    lines = {name: ("after", found["kl_to_original"], found["quantize_seconds"])}
    if place == 0:
        lines = {"float32": ("before", 0.0, 0.0), **lines}
    for label, (when, divergence, seconds) in lines.items():
        size = f"{found[f'bytes_{when}']:>12,} {found[f'bits_per_weight_{when}']:>6.2f}"
        quality = f"{found[f'perplexity_{when}']:>11.3f} {divergence:>8.4f}"
        print(f"{label:<15} {size} {quality} {found[f'tokens_per_second_{when}']:>9.1f} {seconds:>8.1f}")
