"""A model before and after fine-tuning in a benchmark: scores, chance, and whether the difference is more than luck."""

import argparse

import posttrain
from posttrain.ops.bootstrap import paired_test

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="smollm2")
parser.add_argument("--task", default="handbook_quiz", help="a name from `posttrain list task`, or a task file")
parser.add_argument("--data", help="the folder with the task's files; handbook_quiz needs none")
parser.add_argument("--limit", type=int, help="only the first so many items")
parser.add_argument("--steps", type=int, default=12)
options = parser.parse_args()

model, results = posttrain.load(options.model), []
for name in ("before", "after"):
    if name == "after":
        settings = {"encoding": {"chat": True}, "learning_rate": 2e-3, "steps": options.steps}
        model, _ = posttrain.train(model, "builtin:handbook", **settings)
    (found,) = posttrain.bench(model, options.task, data=options.data, limit=options.limit).values()
    spread = "" if found.interval is None else f", 95 % interval {found.interval[0]:.3f} to {found.interval[1]:.3f}"
    chance = "" if found.chance is None else f", by chance {found.chance:.3f}"
    print(f"{name}: {found.metric} {found.score:.3f}{spread}{chance}, {found.n} items")
    results.append(found)

before, after = ([item["scores"][found.metric] for item in each.items] for each in results)
test = paired_test(after, before)
difference = f"{test.difference.value:+.3f}, 95 % interval {test.difference.low:+.3f} to {test.difference.high:+.3f}"
print(f"difference {difference}, p = {test.p_value:.3f} (paired bootstrap, one-sided)")
changed = [(a, b) for a, b in zip(before, after) if a != b]
print(f"{sum(b > a for a, b in changed)} items gained, {sum(a > b for a, b in changed)} lost")
