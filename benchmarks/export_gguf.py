"""Exports to GGUF beside posttrain: greedy texts of the same prompts, token by token.

    python benchmarks/export_gguf.py

The model is exported as f16 and as Q8_0 and read by llama.cpp (the package xllamacpp, built beforehand) with a float32
cache. Both are asked the first of the built-in prompts through the chat template and answer greedily.
Prints one JSON line: in how many answers all tokens are the same, and how many tokens agree up to where answers part,
of all. What f16 rounds is the weights; posttrain has them in float32.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peers import child, environment

PEERS = ["xllamacpp==2026.*"]
TYPES = ["f16", "q8_0"]


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """posttrain's engine, and the exports."""
    from posttrain.core.catalog import build
    from posttrain.decode.generation import generate
    from posttrain.models.sources import load
    from posttrain.pipeline.steps.generate import read_prompts

    model = load(arguments.model)
    asked = [[{"role": "user", "content": text}] for text in read_prompts("builtin:prompts")[: arguments.prompts]]
    texts = [model.tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True) for each in asked]
    prompts = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    found = generate(model, prompts, search=build("search", "greedy"), max_new_tokens=arguments.max_new_tokens)
    for name in TYPES:
        build("export", {"gguf": {"type": name}}).write(model, Path(arguments.scratch) / f"{name}.gguf")
    return {"prompts": prompts, "answers": [each.token_ids for each in found.generations]}


def theirs(arguments: argparse.Namespace) -> dict[str, Any]:
    """llama.cpp; run inside the peer's environment."""
    from xllamacpp import CommonParams, Server, ggml_type, llama_flash_attn_type

    prompts = json.loads((Path(arguments.scratch) / "prompts.json").read_text())
    answers: dict[str, list[list[int]]] = {}
    for name in TYPES:
        settings = CommonParams()
        settings.model.path = str(Path(arguments.scratch) / f"{name}.gguf")
        settings.n_ctx = 2048
        settings.n_parallel = 1
        settings.cache_type_k = settings.cache_type_v = ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        server = Server(settings)
        answers[name] = []
        for prompt in prompts:
            asked = {"prompt": prompt, "max_tokens": arguments.max_new_tokens, "temperature": 0.0, "logprobs": 1}
            (choice,) = server.handle_completions({**asked, "cache_prompt": False})["choices"]
            answers[name].append([token["id"] for token in choice["logprobs"]["content"]])
    return answers


def compared(ours: list[list[int]], theirs: list[list[int]], ends: set[int]) -> dict[str, Any]:
    """Counts over all answers; the token that ends one isn't counted, since the peer doesn't return it."""
    agreed = tokens = same = 0
    for one, other in zip(ours, theirs, strict=True):
        first, second = ([token for token in each if token not in ends] for each in (one, other))
        common = next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))
        agreed, tokens = agreed + common, tokens + max(len(first), len(second))
        same += first == second
    return {"answers_equal": same, "tokens_equal": agreed, "tokens": tokens}


def main() -> None:
    """Run both and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--prompts", type=int, default=10, help="how many of the built-in ones")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps({"ours": ours, "theirs": theirs}[arguments.side](arguments)))
        return

    from posttrain.core.runtime import machine
    from posttrain.models.sources import load

    with tempfile.TemporaryDirectory() as scratch:
        shared = ["--model", arguments.model, "--prompts", str(arguments.prompts), "--scratch", scratch]
        shared += ["--max-new-tokens", str(arguments.max_new_tokens)]
        first = child(sys.executable, Path(__file__), "--side", "ours", *shared)
        (Path(scratch) / "prompts.json").write_text(json.dumps(first["prompts"]))
        second = child(environment("llama-cpp", PEERS), Path(__file__), "--side", "theirs", *shared)
    ends = set(load(arguments.model).tokenizer.all_special_ids)
    report = {
        "benchmark": "export_gguf",
        "prompts": len(first["prompts"]),
        "max_new_tokens": arguments.max_new_tokens,
        **{name: compared(first["answers"], second[name], ends) for name in TYPES},
        "peer": {"name": "llama.cpp", "packages": PEERS},
        "machine": machine(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
