"""PPO beside TRL's PPOTrainer: same model, prompts, answer length, epochs and minibatches, in one run.

    python benchmarks/ppo.py

Sixteen prompts, 32 sampled tokens each (no answer ends early on either side), four epochs of four minibatches of four.
TRL runs twice: as its documentation has it (policy, reference, critic and reward model, each a network of its own), and
with LoRA on the policy, where the reference is the policy without adapter. posttrain trains LoRA and a critic's head on
one network that is also reference and reward model. Prints one JSON line: episodes a minute over whole rollouts
(sampling, judging, learning; without loading), peak memory, ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peers import child, environment, peak_memory_mb

PEERS = ["trl==0.24.0", "transformers==4.57.6", "peft==0.18.0"]
EPISODES, TOKENS, EPOCHS, MINIBATCH = 16, 32, 4, 4
RANK, ALPHA, RATE = 8, 16, 1e-4
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def prompts(count: int = EPISODES) -> list[str]:
    """Built-in questions as plain text, which the model continues."""
    from importlib.resources import files

    lines = files("posttrain.data.builtin").joinpath("handbook_heldout.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines[:count]]


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """posttrain's align step."""
    from posttrain.models.sources import load
    from posttrain.pipeline.single_step import single_step

    scratch = Path(arguments.scratch)
    texts = scratch / "prompts.jsonl"
    texts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in arguments.prompts))
    adapter = {"lora": {"rank": RANK, "alpha": ALPHA, "targets": TARGETS}}
    judge = {"objective": "reward_model", "adapt": adapter, "steps": 1, "batch_size": 2, "limit": 8}
    single_step("align", judge, arguments.model, out=scratch / "judge")
    # An answer that never ends: the bias of no token is touched, the end is simply not looked for.
    model = load(arguments.model)
    model.network.generation_config.eos_token_id = None
    model.tokenizer.eos_token = None
    rollout = {"episodes_per_rollout": EPISODES, "epochs": EPOCHS}
    settings = {
        "objective": {"ppo": {"rollout": rollout}},
        "data": str(texts),
        "reward": str(scratch / "judge"),
        "adapt": adapter,
        "episodes": EPISODES * arguments.rollouts,
        "batch_size": MINIBATCH,
        "max_new_tokens": TOKENS,
        "learning_rate": RATE,
        "evaluation_prompts": 1,
    }
    result = single_step("align", settings, model, out=scratch / "policy").result
    rollouts = result["rollouts"]
    return {
        "episodes_per_minute": result["episodes_per_minute"],
        "seconds": result["seconds"],
        "sampled_tokens": sum(entry["length"] * EPISODES for entry in rollouts),
        "first_ratio": result["history"][0]["ratio"],
        "kl": [entry["kl"] for entry in rollouts],
        "peak_memory_mb": peak_memory_mb(),
    }


def theirs(arguments: argparse.Namespace) -> dict[str, Any]:
    """TRL's trainer in float32; run inside the peers' environment."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast
    from trl import PPOConfig, PPOTrainer

    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(arguments.folder, padding_side="left")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.pad_token = "<|endoftext|>"

    def language_model() -> Any:
        return AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32)

    def scorer() -> Any:
        found = AutoModelForSequenceClassification.from_pretrained(arguments.folder, num_labels=1, dtype=torch.float32)
        found.config.pad_token_id = tokenizer.pad_token_id
        return found

    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=arguments.scratch,
            per_device_train_batch_size=MINIBATCH,
            gradient_accumulation_steps=EPISODES // MINIBATCH,
            num_mini_batches=EPISODES // MINIBATCH,
            local_rollout_forward_batch_size=EPISODES,
            num_ppo_epochs=EPOCHS,
            total_episodes=EPISODES * arguments.rollouts,
            response_length=TOKENS,
            temperature=1.0,
            learning_rate=RATE,
            num_sample_generations=0,
            bf16=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        ),
        processing_class=tokenizer,
        model=language_model(),
        ref_model=None if arguments.lora else language_model(),
        reward_model=scorer(),
        value_model=scorer(),
        train_dataset=Dataset.from_list([dict(tokenizer(text)) for text in arguments.prompts]),
        eval_dataset=Dataset.from_list([dict(tokenizer(text)) for text in arguments.prompts]),
        peft_config=lora if arguments.lora else None,
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    episodes = EPISODES * arguments.rollouts
    logged = [entry for entry in trainer.state.log_history if "objective/kl" in entry]
    return {
        "episodes_per_minute": episodes / seconds * 60,
        "seconds": seconds,
        "sampled_tokens": episodes * TOKENS,
        "kl": [entry["objective/kl"] for entry in logged],
        "peak_memory_mb": peak_memory_mb(),
    }


def main() -> None:
    """Run all three and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rollouts", type=int, default=1)
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--lora", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--prompts", type=json.loads, help=argparse.SUPPRESS)
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
        shared = ["--prompts", json.dumps(prompts()), "--rollouts", str(arguments.rollouts)]
        shared += ["--model", arguments.model, "--scratch", scratch, "--folder", str(folder)]
        script, peer = Path(__file__), environment("trl024", PEERS)
        first = child(sys.executable, script, "--side", "ours", *shared)
        full = child(peer, script, "--side", "theirs", *shared)
        lora = child(peer, script, "--side", "theirs", "--lora", *shared)
    report = {
        "benchmark": "ppo",
        **_ratios(first, full),
        "against_lora": _ratios(first, lora),
        "ours": first,
        "peer": {"name": "TRL PPOTrainer", "packages": PEERS, **full},
        "peer_lora": {"name": "TRL PPOTrainer with PEFT's LoRA", "packages": PEERS, **lora},
        "machine": machine(),
    }
    print(json.dumps(report))


def _ratios(own: dict[str, Any], peer: dict[str, Any]) -> dict[str, float]:
    return {
        "speed_ratio": own["episodes_per_minute"] / peer["episodes_per_minute"],
        "memory_ratio": peer["peak_memory_mb"] / own["peak_memory_mb"],
    }


if __name__ == "__main__":
    main()
