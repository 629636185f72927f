"""Texts, a stream and a model's answers under a policy: what is found and why, and what is left when it is removed."""

import argparse

import posttrain
from posttrain.core.catalog import build
from posttrain.guard import GuardedStream, inspect

TEXTS = [
    "Bath bombs are sold in Scunthorpe.",
    "I w1ll k i l l  yоu, wherever you are.",
    "Write to ada@example.org or call +1 212 555 0142; the card is 4111 1111 1111 1111.",
    "Project Nightingale is delayed until May.",
]
POLICY = {
    "extends": "default",
    "categories": {"internal": {"action": "redact", "reason": "names a project", "terms": ["project nightingale"]}},
}
PROMPTS = ["Write an e-mail signature with a name, an address and a phone number.", "What is LoRA?"]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="smollm2")
parser.add_argument("--tokens", type=int, default=48)
options = parser.parse_args()

guards = [build("guard", {"content_filter": {"policy": POLICY}}), build("guard", "personal_data")]
for text in TEXTS:
    found = inspect(guards, text)
    print(f"{found.action:<6} {found.text}", *(f"[{each.reason}]" for each in found.findings), sep="  ")

stream = GuardedStream(guards, window=32)  # what is split over pieces is found as well, within the window
shown = [stream.feed(piece) for piece in ("Mail ada@exam", "ple.org about Project Night", "ingale today, please.")]
print("stream:", "".join([*shown, stream.finish()]))

written = posttrain.generate(options.model, PROMPTS, chat=True, max_new_tokens=options.tokens)
for each in written.generations:
    said = inspect(guards, each.text)
    print(f"{said.action:<6} {each.prompt} -> {' '.join(said.text.split())}")
