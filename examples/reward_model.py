"""Train a reward model on preferences, measure it on held-out pairs, and let it score answers."""

import argparse
from pathlib import Path

import posttrain
from posttrain.align.reward import model_reward

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="smollm2")
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--out", type=Path, default=Path("runs/examples/judge"))
options = parser.parse_args()

_, result = posttrain.align(
    options.model,
    "reward_model",
    "builtin:preferences",
    validation="builtin:preferences_heldout",
    encoding={"chat": True},
    steps=options.steps,
    learning_rate=1e-3,
    out=options.out,
)
print(f"loss {result['first_loss']:.3f} -> {result['loss']:.3f} (ln 2 = 0.693 is chance)")
print(f"held-out pairs in the right order: {result['accuracy']:.3f}, mean margin {result['pairs_margin_after']:.2f}")

judge = model_reward(posttrain.load(options.out))
question = "What is LoRA?"
answers = ["LoRA trains two small matrices beside each frozen weight.", "Everybody knows that, so I won't say it."]
for answer, score in zip(answers, judge.score([question] * 2, answers)):
    print(f"{score:+.2f}  {answer}")
