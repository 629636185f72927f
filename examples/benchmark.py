"""A model before and after fine-tuning in a benchmark: scores, chance, and whether the difference is more than luck."""

import argparse

import posttrain

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
    results.append(posttrain.bench(model, options.task, data=options.data, limit=options.limit))
    (found,) = results[-1].values()
    spread = "" if found.interval is None else f", 95 % interval {found.interval[0]:.3f} to {found.interval[1]:.3f}"
    chance = "" if found.chance is None else f", by chance {found.chance:.3f}"
    print(f"{name}: {found.metric} {found.score:.3f}{spread}{chance}, {found.n} items")

before, after = results
(compared,) = posttrain.compare_scores(after, before).values()
score = compared.score
spread = "" if score.interval is None else f", 95 % interval {score.interval[0]:+.3f} to {score.interval[1]:+.3f}"
print(f"difference {score.difference:+.3f}{spread}, p = {score.p_value:.3f} ({score.test}, two-sided)")
if score.discordant is not None:
    print("{} items gained, {} lost".format(*score.discordant))
