"""Write a model as a GGUF file for llama.cpp, read it back, and see what its blocks of few bits cost.

A model that carries an adapter is merged first (`posttrain run` with a `merge` step, or as in lora.py).
"""

import argparse
from pathlib import Path

import posttrain

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="smollm2")
parser.add_argument("--type", default="q8_0", help="f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0")
parser.add_argument("--tokens", type=int, default=1024, help="of the story that perplexity is measured on")
parser.add_argument("--out", type=Path, default=Path("runs/examples/model.gguf"))
options = parser.parse_args()

model = posttrain.load(options.model)
written = posttrain.export(model, "gguf", options.out, type=options.type)
print(f"{written['path']}: {written['tensors']} tensors of a {written['architecture']}, {written['bytes']:,} bytes")
print(f"the model in memory: {model.nbytes():,} bytes")

read = posttrain.load(options.out)  # unpacked to float32, for good: the cache keeps that
for name, each in (("the model", model), ("the file", read)):
    measured = posttrain.perplexity(each, "builtin:prose", max_tokens=options.tokens)
    text = posttrain.generate(each, "What is LoRA?", chat=True, max_new_tokens=24).generations[0].text
    print(f"{name}: perplexity {measured.value:.3f}; {text.strip()}")
print(f"with llama.cpp: llama-cli --model {options.out} --prompt 'What is LoRA?'")
