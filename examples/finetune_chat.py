"""Fine-tune a chat model on questions and answers, and see what it learned and what it forgot.

Only the answers carry loss. The forgetting figure is the rise of the loss on a story that has nothing to do with them.
"""

import argparse

import posttrain

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="smollm2")
parser.add_argument("--steps", type=int, default=12)
options = parser.parse_args()

model = posttrain.load(options.model)
audit = posttrain.audit("builtin:handbook", model, chat=True)
print(f"{audit['rows']} records; {audit['loss_share']:.0%} of their tokens carry loss")


def ask(question: str) -> str:
    """A greedy answer through the chat template."""
    return posttrain.generate(model, question, chat=True, max_new_tokens=32).generations[0].text


print("before:", ask("What is LoRA?"))
model, result = posttrain.train(
    model,
    "builtin:handbook",
    validation="builtin:handbook_heldout",
    forgetting="builtin:prose",
    encoding={"chat": True},
    steps=options.steps,
    learning_rate=2e-3,
    schedule={"cosine": {"warmup": 0.06}},
)
print("after:", ask("What is LoRA?"))
print(f"held-out loss {result['validation_loss_before']:.3f} -> {result['validation_loss_after']:.3f}")
print(f"forgetting {result['forgetting']:+.3f} nats a token")
