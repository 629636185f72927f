"""Two ways of decoding answer the same questions: scores by several metrics, and how surely the two differ."""

import argparse

import posttrain
from posttrain.data import dataset

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="smollm2")
parser.add_argument("--data", default="builtin:handbook_heldout", help="records with prompt and completion")
parser.add_argument("--temperature", type=float, default=1.0)
parser.add_argument("--tokens", type=int, default=40)
options = parser.parse_args()

records = dataset.read(options.data)
questions, references = [each.prompt for each in records], [each.completion for each in records]
model = posttrain.load(options.model)


def answers(search) -> list[str]:
    """The first answer to each question."""
    found = posttrain.generate(model, questions, search=search, chat=True, max_new_tokens=options.tokens)
    return [each.text for each in found.generations]


greedy, sampled = answers("greedy"), answers({"sampling": {"temperature": options.temperature}})
print(f"{'':<20} {'greedy':>8} {'sampled':>8} {'difference':>11}  {'95 % interval':<18} p-value")
for metric in ("rouge", "chrf", "meteor", "semantic_similarity"):
    found = posttrain.score(metric, greedy, references, baseline=sampled)
    interval = f"{found.interval[0]:+.3f} to {found.interval[1]:+.3f}" if found.interval else "too few texts"
    values = f"{found.system.value:>8.3f} {found.baseline.value:>8.3f} {found.difference:>+11.3f}"
    print(f"{metric:<20} {values}  {interval:<18} {found.p_value or float('nan'):.3f}")
print(f"how it was made: {found.system.signature}")
