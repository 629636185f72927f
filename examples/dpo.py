"""Align a model with preferences directly: no reward model, no sampling, and no second model in memory."""

import argparse

import posttrain

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="smollm2")
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--out", help="where the adapter is saved")
options = parser.parse_args()

model, result = posttrain.align(
    options.model,
    {"dpo": {"beta": 0.1}},
    "builtin:preferences",
    limit=64,
    encoding={"chat": True},
    steps=options.steps,
    learning_rate=5e-4,
    max_new_tokens=24,
    evaluation_prompts=4,
    out=options.out,
)
print(f"loss {result['first_loss']:.3f} -> {result['loss']:.3f} (ln 2 = 0.693 is where every run begins)")
print(
    f"held-out pairs in the right order: {result['pairs_accuracy_before']:.2f} -> {result['pairs_accuracy_after']:.2f}"
)
print(f"the answers are {result['kl']:.2f} nats from the reference")
print(posttrain.generate(model, "What is LoRA?", chat=True, max_new_tokens=32).generations[0].text)
