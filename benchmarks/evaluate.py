"""Benchmarks beside lm-evaluation-harness: same weights, items, prompts and examples, in one run.

    python benchmarks/evaluate.py --data DIR [--chat]

DIR holds HellaSwag and MMLU as `posttrain bench --data` takes them. Three sets: HellaSwag without examples, MMLU
without, and MMLU with five. The harness reads the same items from JSON files through tasks whose templates are those of
its own; its batches have 8 requests. Both times are all of an evaluation but loading the model: reading the items,
prompts, tokens, scores. Prints one JSON line: seconds and ratio of each set, the share of items in which both choose
the same, and the largest difference of a choice's log-probability.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peers import child, environment, peak_memory_mb

PEERS = ["lm_eval[hf]==0.4.13", "transformers==5.24.0"]
BATCH = 8
SETS = {"hellaswag": 0, "mmlu": 0, "mmlu_5_shot": 5}

# What the harness's own files say, over columns of a local file.
HELLASWAG = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {items}}}}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{query}}}}"
doc_to_target: "{{{{label}}}}"
doc_to_choice: "choices"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}},
              {{metric: acc_norm, aggregation: mean, higher_is_better: true}}]
"""
MMLU = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}, dev: {examples}}}}}
output_type: multiple_choice
test_split: test
fewshot_split: dev
fewshot_config: {{sampler: first_n}}
description: "{preamble}"
doc_to_text: "{{{{question.strip()}}}}\\nA. {{{{choices[0]}}}}\\nB. {{{{choices[1]}}}}\\nC. {{{{choices[2]}}}}\\n\
D. {{{{choices[3]}}}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def tasks_of(name: str, subjects: list[str]) -> list[str]:
    """The tasks of a set."""
    return ["hellaswag"] if name == "hellaswag" else [f"mmlu_{subject}" for subject in subjects]


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """posttrain's runner."""
    import torch

    from posttrain.bench.runner import evaluate, prepare
    from posttrain.models.sources import load

    model = load(arguments.folder)
    found = {}
    for name in arguments.sets:
        tasks = tasks_of(name, arguments.subjects)
        start = time.perf_counter()
        plans = prepare(tasks, arguments.data, arguments.items // len(tasks), SETS[name], arguments.chat)
        results = evaluate(model, plans)
        found[name] = {
            "seconds": time.perf_counter() - start,
            "logprobs": [item["logprobs"] for result in results.values() for item in result.items],
            "scores": {
                metric: sum(result.figures[metric].value for result in results.values()) / len(results)
                for metric in next(iter(results.values())).figures
            },
        }
    return {"sets": found, "peak_memory_mb": peak_memory_mb(), "threads": torch.get_num_threads()}


def theirs(arguments: argparse.Namespace) -> dict[str, Any]:
    """The harness; run inside its environment."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=arguments.folder, device="cpu", dtype="float32", batch_size=BATCH)
    manager = TaskManager(include_path=arguments.scratch, include_defaults=False)
    found = {}
    for name in arguments.sets:
        tasks = [f"local_{task}" for task in tasks_of(name, arguments.subjects)]
        start = time.perf_counter()
        results = simple_evaluate(
            model=model,
            tasks=tasks,
            task_manager=manager,
            num_fewshot=SETS[name],
            apply_chat_template=arguments.chat,
        )
        seconds = time.perf_counter() - start
        samples = [s for task in tasks for s in sorted(results["samples"][task], key=lambda s: s["doc_id"])]
        metrics = ["acc_norm", "acc"] if name == "hellaswag" else ["acc"]
        found[name] = {
            "seconds": seconds,
            "logprobs": [[float(response[0][0]) for response in sample["resps"]] for sample in samples],
            "scores": {m: sum(results["results"][t][f"{m},none"] for t in tasks) / len(tasks) for m in metrics},
        }
    return {"sets": found, "peak_memory_mb": peak_memory_mb(), "threads": torch.get_num_threads()}


def write_tasks(folder: Path, arguments: argparse.Namespace) -> None:
    """The items as JSON Lines, with a task file for each in the harness's form."""
    from posttrain.bench.runner import prepare

    columns = {"hellaswag": ("query", "choices", "label"), "mmlu": ("question", "choices", "answer")}
    for name in {"hellaswag", "mmlu"} & {name.removesuffix("_5_shot") for name in arguments.sets}:
        tasks = tasks_of(name, arguments.subjects)
        shots = 5 if name == "mmlu" else 0
        for plan in prepare(tasks, arguments.data, arguments.items // len(tasks), shots):
            (part,) = plan.parts
            rows = {"items": [question.item for question in part.questions], "examples": part.examples.items}
            paths = {}
            for kind, items in rows.items():
                paths[kind] = str(folder / f"{plan.name}-{kind}.jsonl")
                lines = (json.dumps({column: item.values[column] for column in columns[name]}) for item in items)
                Path(paths[kind]).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            about = (part.member or "").replace("_", " ")
            preamble = f"The following are multiple choice questions (with answers) about {about}.\\n\\n"
            form = HELLASWAG if name == "hellaswag" else MMLU
            text = form.format(name=f"local_{plan.name}", preamble=preamble, **paths)
            (folder / f"{plan.name}.yaml").write_text(text, encoding="utf-8")


def compared(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both sides of one set."""
    pairs = list(zip(first["logprobs"], second["logprobs"], strict=True))
    same = [a.index(max(a)) == b.index(max(b)) for a, b in pairs]
    return {
        "items": len(pairs),
        "seconds": first["seconds"],
        "peer_seconds": second["seconds"],
        "ratio": second["seconds"] / first["seconds"],
        "same_choice_share": sum(same) / len(same),
        "largest_difference": max(abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True)),
        "scores": first["scores"],
        "peer_scores": second["scores"],
    }


def main() -> None:
    """Run both and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder with HellaSwag and MMLU")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--items", type=int, default=100, help="items of each set")
    parser.add_argument("--sets", nargs="+", choices=[*SETS], default=[*SETS])
    parser.add_argument(
        "--subjects", nargs="+", default=["anatomy", "marketing", "philosophy", "sociology"], help="of MMLU"
    )
    parser.add_argument("--chat", action="store_true", help="ask through the model's chat template")
    parser.add_argument("--without-peer", action="store_true", help="only posttrain")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps({"ours": ours, "theirs": theirs}[arguments.side](arguments)))
        return

    from posttrain.core.runtime import machine
    from posttrain.models import saving
    from posttrain.models.sources import load

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"  # the same float32 weights and tokenizer for both
        saving.save(load(arguments.model), folder)
        (Path(scratch) / "tasks").mkdir()
        write_tasks(Path(scratch) / "tasks", arguments)
        shared = ["--data", arguments.data, "--items", str(arguments.items), "--folder", str(folder)]
        shared += ["--sets", *arguments.sets, "--subjects", *arguments.subjects]
        shared += ["--scratch", str(Path(scratch) / "tasks"), *(["--chat"] if arguments.chat else [])]
        first = child(sys.executable, Path(__file__), "--side", "ours", *shared)
        if arguments.without_peer:
            found = {name: {k: v for k, v in each.items() if k != "logprobs"} for name, each in first["sets"].items()}
            print(json.dumps({"benchmark": "evaluate", "sets": found, "machine": machine()}))
            return
        python = environment("lm-eval", PEERS)
        second = child(python, Path(__file__), "--side", "theirs", *shared)
    report = {
        "benchmark": "evaluate",
        "sets": {name: compared(first["sets"][name], second["sets"][name]) for name in arguments.sets},
        "memory_ratio": second["peak_memory_mb"] / first["peak_memory_mb"],
        "threads": [first["threads"], second["threads"]],
        "peer": {"name": "lm-evaluation-harness", "packages": PEERS, "batch_size": BATCH},
        "machine": machine(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
