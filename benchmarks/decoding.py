"""Greedy and beam search beside transformers' `generate`: same weights and prompts, in one run.

    python benchmarks/decoding.py

Both sides continue the first of the built-in prompts, as questions through the model's chat template, one at a time and
several at a time, greedily and with beams. Prints one JSON line: how many texts are the same token by token, new tokens
a second on both sides, and the ratios. Where two texts differ, a pass in float64 tells how near the tie was: for greedy
search by how much the log-probabilities of the two tokens differ at which the texts part, for beam search by how much
the scores of the two texts do; positive where ours is the better one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peers import child

Texts = list[list[int]]


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """posttrain's engine."""
    from posttrain.core.catalog import build
    from posttrain.decode.generation import generate
    from posttrain.models.sources import load

    model = load(arguments.folder)
    prompts = _prompts(arguments, model.tokenizer)

    def run(beams: int, batch_size: int, prompts: Texts) -> Texts:
        search = build("search", {"beam": {"width": beams}} if beams > 1 else "greedy")
        most = arguments.max_new_tokens
        found = generate(model, prompts, search=search, max_new_tokens=most, batch_size=batch_size)
        return [generation.token_ids for generation in found.generations]

    return _measured(arguments, prompts, run)


def theirs(arguments: argparse.Namespace) -> dict[str, Any]:
    """transformers, left-padded where prompts are put together."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
    prompts = _prompts(arguments, tokenizer)
    ends = _ends(model, tokenizer)

    def run(beams: int, batch_size: int, prompts: Texts) -> Texts:
        texts = []
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            width = max(map(len, batch))
            ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in batch])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
            output = model.generate(
                ids,
                attention_mask=mask,
                num_beams=beams,
                do_sample=False,
                max_new_tokens=arguments.max_new_tokens,
                pad_token_id=0,
                eos_token_id=ends,
            )
            texts += [_cut(row, ends) for row in output[:, width:].tolist()]
        return texts

    return _measured(arguments, prompts, run)


def _prompts(arguments: argparse.Namespace, tokenizer: Any) -> Texts:
    from posttrain.pipeline.steps.generate import read_prompts

    texts = read_prompts("builtin:prompts")[: arguments.prompts]
    asked = [[{"role": "user", "content": text}] for text in texts]
    rendered = [tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True) for each in asked]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in rendered]


def _ends(network: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a text, by the model or by its tokenizer."""
    named = network.generation_config.eos_token_id
    return sorted({*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id} - {None})


def _cut(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """Up to the first end, without the padding behind it."""
    return next((tokens[: place + 1] for place, token in enumerate(tokens) if token in ends), tokens)


def _measured(arguments: argparse.Namespace, prompts: Texts, run: Callable[[int, int, Texts], Texts]) -> dict[str, Any]:
    from posttrain.core.runtime import peak_memory_mb

    run(1, 1, prompts[:1])  # what is only done once
    found = {}
    for search, beams in (("greedy", 1), ("beam", arguments.width)):
        for batch_size in arguments.batch_sizes:
            start = time.perf_counter()
            texts = run(beams, batch_size, prompts)
            seconds = time.perf_counter() - start
            speed = sum(map(len, texts)) / seconds
            found[f"{search}, batch {batch_size}"] = {"texts": texts, "seconds": seconds, "tokens_per_second": speed}
    return {"prompts": prompts, "found": found, "peak_memory_mb": peak_memory_mb()}


def compared(folder: str, prompts: Texts, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Counts, ratios and the gaps of near ties of each search and batch size."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()

    @torch.no_grad()
    def logprobs(prompt: list[int], text: list[int]) -> list[float]:
        """Of each token of a text, in float64."""
        rows = network(torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return [float(row[token]) for row, token in zip(rows, text)]

    report = {}
    for name, one in first.items():
        other, gaps = second[name], []
        for prompt, mine, peers in zip(prompts, one["texts"], other["texts"]):
            if mine == peers:
                continue
            ours, others = logprobs(prompt, mine), logprobs(prompt, peers)
            if name.startswith("beam"):
                gaps.append(sum(ours) / len(ours) - sum(others) / len(others))
            else:
                place = next(i for i, (a, b) in enumerate(zip(mine, peers)) if a != b)
                gaps.append(ours[place] - others[place])
        report[name] = {
            "equal": len(prompts) - len(gaps),
            "gaps_of_the_others": gaps,
            "speed_ratio": one["tokens_per_second"] / other["tokens_per_second"],
            "tokens_per_second": one["tokens_per_second"],
            "peer_tokens_per_second": other["tokens_per_second"],
        }
    return report


def main() -> None:
    """Run both and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--prompts", type=int, default=30, help="how many of the built-in ones")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--width", type=int, default=4, help="beams")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8], help="prompts at a time")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps({"ours": ours, "theirs": theirs}[arguments.side](arguments)))
        return

    from posttrain.core.runtime import machine
    from posttrain.models import saving
    from posttrain.models.sources import load

    with tempfile.TemporaryDirectory() as scratch:
        folder = str(Path(scratch) / "model")  # the same float32 weights and tokenizer for both
        saving.save(load(arguments.model), Path(folder))
        shared = ["--folder", folder, "--prompts", str(arguments.prompts), "--width", str(arguments.width)]
        shared += ["--max-new-tokens", str(arguments.max_new_tokens)]
        shared += ["--batch-sizes", *map(str, arguments.batch_sizes)]
        first, second = (child(sys.executable, Path(__file__), "--side", side, *shared) for side in ("ours", "theirs"))
        assert first["prompts"] == second["prompts"]
        report = {
            "benchmark": "decoding",
            "prompts": len(first["prompts"]),
            "max_new_tokens": arguments.max_new_tokens,
            "width": arguments.width,
            **compared(folder, first["prompts"], first["found"], second["found"]),
            "peak_memory_mb": first["peak_memory_mb"],
            "peer": {"name": "transformers generate", "peak_memory_mb": second["peak_memory_mb"]},
            "machine": machine(),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
