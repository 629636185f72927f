"""Fine-tune an encoder to tell good answers from bad ones, or on labelled texts of your own.

python examples/finetune_classifier.py --data reviews.jsonl --text "This movie was fantastic!"
"""

import argparse
import tempfile
from pathlib import Path

from _answers import labelled

import posttrain

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="minilm")
parser.add_argument("--data", help="records of text and label; built-in questions with answers when not given")
parser.add_argument("--text", nargs="*", default=[("What is LoRA?", "LoRA deletes layers.")])
parser.add_argument("--steps", type=int, default=60)
options = parser.parse_args()

with tempfile.TemporaryDirectory() as scratch:
    own = options.data is not None
    model, result = posttrain.train(
        options.model,
        options.data if own else labelled("builtin:preferences", Path(scratch)),
        validation=None if own else str(labelled("builtin:preferences_heldout", Path(scratch))),
        objective="sequence_classification",
        adapt="full",
        steps=options.steps,
        batch_size=16,
        tokens_per_pass=2048,
        learning_rate=1e-4,
    )
if not own:
    print(f"accuracy {result['validation_accuracy_after']:.3f}, majority {result['baseline_accuracy']:.3f}")
for found in posttrain.classify(model, options.text):
    print(found.text, "->", found.label, {name: round(share, 2) for name, share in found.probabilities.items()})
