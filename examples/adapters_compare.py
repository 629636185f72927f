"""The same batches through every kind of adapter: how much each trains, what it learns, what it forgets."""

import argparse

import posttrain

ADAPTERS = {
    "full": ({}, 1e-4),
    "head_only": ({}, 1e-4),
    "bitfit": ({}, 1e-2),
    "bottleneck": ({"width": 32}, 2e-3),
    "lora": ({"rank": 8}, 2e-3),
    "adalora": ({"initial_rank": 12, "target_rank": 8}, 1e-2),
}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="smollm2")
parser.add_argument("--steps", type=int, default=4)
options = parser.parse_args()

print(f"{'adapter':<11} {'parameters':>12} {'share':>7} {'loss':>14} {'forgetting':>11}")
for name, (settings, rate) in ADAPTERS.items():
    _, found = posttrain.train(
        options.model,
        "builtin:handbook",
        forgetting="builtin:prose",
        forgetting_tokens=512,
        encoding={"chat": True},
        adapt={name: settings},
        learning_rate=rate,
        steps=options.steps,
        batch_size=4,
    )
    loss = f"{found['first_loss']:.3f} -> {found['loss']:.3f}"
    size = f"{found['trainable_parameters']:>12,} {found['trainable_share']:>7.2%}"
    print(f"{name:<11} {size} {loss:>14} {found['forgetting']:>+11.3f}")
