"""The same training twice, without and with rounded weights in every pass; then both are rounded for good.

What is learned and what perplexity is measured on are the two halves of the built-in story.
"""

import argparse
import tempfile
from pathlib import Path

import posttrain
from posttrain.core.catalog import build
from posttrain.data import dataset

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="smollm2")
parser.add_argument("--bits", type=int, default=3)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--tokens", type=int, default=1024, help="of the text that perplexity is measured on")
options = parser.parse_args()

GRID = {"bits": options.bits, "group_size": 64}
with tempfile.TemporaryDirectory() as scratch:
    learned, judged = Path(scratch) / "learned.txt", Path(scratch) / "judged.txt"
    paragraphs = dataset.read("builtin:prose")[0].text.split("\n\n")
    learned.write_text("\n\n".join(paragraphs[::2]), encoding="utf-8")
    judged.write_text("\n\n".join(paragraphs[1::2]), encoding="utf-8")
    training = {"encoding": {"max_length": 128, "too_long": "split"}, "batch_size": 4, "learning_rate": 1e-4}
    for name in ("trained, then rounded", "trained with rounding"):
        model = posttrain.load(options.model)
        if name == "trained with rounding":
            build("quantize", {"qat": GRID}).quantize(model)
            before = posttrain.perplexity(model, judged, max_tokens=options.tokens).value
            print(f"rounded without any training: perplexity {before:.2f}")
        model, _ = posttrain.train(model, learned, adapt="full", steps=options.steps, **training)
        before = posttrain.perplexity(model, judged, max_tokens=options.tokens).value
        build("quantize", {"rtn": GRID}).quantize(model)
        after = posttrain.perplexity(model, judged, max_tokens=options.tokens).value
        print(f"{name}: perplexity {before:.2f}, at {options.bits} bits {after:.2f}")
