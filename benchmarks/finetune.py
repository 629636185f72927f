"""LoRA fine-tuning beside TRL's SFTTrainer with PEFT: same model, records, batches, rank and targets, in one run.

    python benchmarks/finetune.py --data HumanEval.jsonl.gz

Records have `prompt` and `completion` (or `canonical_solution`); batches are taken in the file's order. Prints one JSON
line: real tokens a second (padding not counted) over all steps but the first, peak memory, losses, ratios.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peers import child, environment, peak_memory_mb

PEERS = ["trl==1.16.*", "peft==0.21.2", "transformers==5.24.0"]
RANK, ALPHA, BATCH, RATE = 8, 16, 8, 2e-4
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def rows(path: str) -> list[dict[str, str]]:
    """The records as prompt and completion."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")  # noqa: PTH123, SIM115
    with opened as lines:
        records = [json.loads(line) for line in lines if line.strip()]
    return [{"prompt": r["prompt"], "completion": r.get("completion") or r["canonical_solution"]} for r in records]


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """posttrain's loop."""
    import torch

    from posttrain.adapt.lora import Lora
    from posttrain.core import events
    from posttrain.data import dataset
    from posttrain.data.collate import Batches
    from posttrain.models.sources import load
    from posttrain.train.loop import Loop, train
    from posttrain.train.objectives import Encoding
    from posttrain.train.objectives.language_modeling import LanguageModeling

    torch.manual_seed(0)
    model = load(arguments.model)
    objective = LanguageModeling()
    items = objective.encode(dataset.read(rows(arguments.data)), model, Encoding(max_length=2048))
    Lora(rank=RANK, alpha=ALPHA, targets=TARGETS).apply(model.network)
    batches = Batches(items, BATCH, arguments.tokens_per_pass, shuffle=False)
    moments = [time.perf_counter()]
    tokens = [sum(len(item) for item in items[i * BATCH : (i + 1) * BATCH]) for i in range(arguments.steps)]

    def clock(event: events.Event) -> None:
        if event.kind == "advance":
            moments.append(time.perf_counter())

    with events.listen(clock):
        result = train(model.network, objective, batches, Loop(steps=arguments.steps, learning_rate=RATE))
    seconds = [b - a for a, b in pairwise(moments)]
    return _numbers(seconds, tokens, [entry["loss"] for entry in result.history])


def theirs(arguments: argparse.Namespace) -> dict[str, Any]:
    """TRL's trainer in its default precision of float32 on the CPU; run inside the peers' environment."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(0)
    seconds: list[float] = []
    tokens: list[int] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.start)

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            tokens.append(int(inputs["attention_mask"].sum()))
            return super().training_step(model, inputs, *rest, **more)

    trainer = Counting(
        model=AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32),
        args=SFTConfig(
            output_dir=arguments.scratch,
            per_device_train_batch_size=BATCH,
            max_steps=arguments.steps,
            max_length=2048,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            logging_steps=1,
            gradient_checkpointing=False,
            bf16=False,
            report_to=[],
            save_strategy="no",
            train_sampling_strategy="sequential",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows(arguments.data)),
        processing_class=AutoTokenizer.from_pretrained(arguments.folder),
        peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
        ),
        callbacks=[Clock()],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return _numbers(seconds, tokens, losses)


def _numbers(seconds: list[float], tokens: list[int], losses: list[float]) -> dict[str, Any]:
    return {
        "tokens_per_second": sum(tokens[1:]) / sum(seconds[1:]),
        "tokens": tokens,
        "seconds": seconds,
        "losses": losses,
        "peak_memory_mb": peak_memory_mb(),
    }


def main() -> None:
    """Run both and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="JSON lines, may be .gz")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--tokens-per-pass", type=int, default=512)
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps({"ours": ours, "theirs": theirs}[arguments.side](arguments)))
        return

    import tempfile

    from posttrain.core.runtime import machine
    from posttrain.models import saving
    from posttrain.models.sources import load

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"  # the same float32 weights and tokenizer for the peer
        saving.save(load(arguments.model), folder)
        shared = ["--data", arguments.data, "--steps", str(arguments.steps), "--model", arguments.model]
        shared += ["--tokens-per-pass", str(arguments.tokens_per_pass)]
        script = Path(__file__)
        first = child(sys.executable, script, "--side", "ours", *shared)
        second = child(
            environment("trl", PEERS),
            script,
            *("--side", "theirs", "--folder", str(folder), "--scratch", scratch),
            *shared,
        )
    report = {
        "benchmark": "finetune",
        "speed_ratio": first["tokens_per_second"] / second["tokens_per_second"],
        "memory_ratio": second["peak_memory_mb"] / first["peak_memory_mb"],
        "first_loss_difference": abs(first["losses"][0] - second["losses"][0]),
        "ours": first,
        "peer": {"name": "TRL SFTTrainer + PEFT", "packages": PEERS, **second},
        "machine": machine(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
