"""LoRA from the first matrix to the merged model: train, switch off, save in PEFT's layout, add another, mix, merge."""

import argparse
from pathlib import Path

import posttrain
from posttrain.adapt import activate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="smollm2")
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--out", type=Path, default=Path("runs/examples/lora"))
options = parser.parse_args()

lora = {"rank": 8, "alpha": 32, "dropout": 0.05, "targets": "attention"}
settings = {"adapt": {"lora": lora}, "encoding": {"chat": True}, "learning_rate": 2e-3, "steps": options.steps}
model, result = posttrain.train(options.model, "builtin:handbook", out=options.out, **settings)
print(f"trained {result['trainable_parameters']:,} parameters, {result['trainable_share']:.2%} of the model")
print("saved as PEFT does:", *sorted(path.name for path in options.out.glob("adapter*")))


def answer() -> str:
    """What the network says as it is now."""
    return posttrain.generate(model, "What is LoRA?", chat=True, max_new_tokens=24).generations[0].text


print("adapter on:  ", answer())
with model.adapter.disabled(model.network):
    print("adapter off: ", answer())

kind = type(model.adapter)
kind.load(model.network, options.out, "second")  # any LoRA checkpoint that PEFT has written for this base, too
kind.combine(model.network, {"default": 0.5, "second": 0.5}, "mix")
print("half of each:", answer())
activate(model.network, "default")
model.adapter.merge(model.network)  # W + (alpha / r) B A; the other adapters go
model.adapter = None
print("merged:      ", answer())
