"""Does PPO learn? Fine-tuning, a reward model on the built-in pairs, then PPO with several seeds, judged on held-out
questions.

    python benchmarks/ppo_learning.py

Prints one JSON line: the reward model's accuracy on held-out pairs, and for each seed the mean reward of sampled
answers to the 30 held-out questions before and after (the same random numbers both times), and the KL from the
reference in nats an answer, which must stay within the budget.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from posttrain.core.runtime import machine
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.single_step import single_step

ADAPTER = {"lora": {"rank": 8, "alpha": 16, "targets": "attention"}}
BUDGET = 20.0  # nats an answer


def judged(model: str, folder: Path) -> dict[str, Any]:
    """The fine-tuned model and the reward model, as the quickstart makes them."""
    return run_recipe(
        {
            "name": "judged",
            "model": model,
            "steps": [
                {
                    "train": {
                        "data": "builtin:handbook",
                        "encoding": {"chat": True},
                        "adapt": ADAPTER,
                        "steps": 40,
                        "learning_rate": 0.002,
                        "schedule": {"cosine": {"warmup": 0.06}},
                    }
                },
                {"merge": {"name": "merged"}},
                {
                    "align": {
                        "name": "judge",
                        "objective": "reward_model",
                        "data": "builtin:preferences",
                        "validation": "builtin:preferences_heldout",
                        "encoding": {"chat": True},
                        "adapt": ADAPTER,
                        "steps": 31,
                        "learning_rate": 0.003,
                        "schedule": {"cosine": {"warmup": 0.1}},
                    }
                },
            ],
        },
        out=folder,
    )


def learned(folder: Path, seed: int, episodes: int) -> dict[str, Any]:
    """PPO with one seed."""
    settings = {
        "objective": {"ppo": {"rollout": {"episodes_per_rollout": 32, "kl": {"coefficient": 0.05, "budget": BUDGET}}}},
        "data": "builtin:handbook",
        "validation": "builtin:handbook_heldout",
        "encoding": {"chat": True},
        "reward": str(folder / "steps" / "03-judge" / "model"),
        "adapt": ADAPTER,
        "episodes": episodes,
        "batch_size": 8,
        "learning_rate": 0.001,
        "max_new_tokens": 32,
        "evaluation_prompts": 30,
    }
    merged = str(folder / "steps" / "02-merged" / "model")
    result = single_step("align", settings, merged, out=folder / f"policy-{seed}", seed=seed).result
    wanted = ("reward_before", "reward_after", "kl", "episodes", "episodes_per_minute", "peak_memory_mb")
    return {"seed": seed, **{key: result[key] for key in wanted}, "rollouts": result["rollouts"]}


def main() -> None:
    """Run and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=192)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        judge = judged(arguments.model, folder)["steps"][-1]["result"]
        runs = [learned(folder, seed, arguments.episodes) for seed in arguments.seeds]
    report = {
        "benchmark": "ppo_learning",
        "reward_model_accuracy": judge["accuracy"],
        "reward_model_calibration_error": judge["pairs_calibration_error_after"],
        "pairs_measured": judge["pairs_measured"],
        "gains": [run["reward_after"] - run["reward_before"] for run in runs],
        "kl": [run["kl"] for run in runs],
        "kl_budget": BUDGET,
        "runs": runs,
        "machine": machine(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
