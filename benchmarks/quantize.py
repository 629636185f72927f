"""GPTQ beside rounding to nearest and llm-compressor's GPTQ: same weights, calibration, bits and groups, in one run.

    python benchmarks/quantize.py --data calibration.jsonl --text wikitext-2-test.txt.gz

Seconds are those of quantizing alone, peaks those of each process. All perplexities are measured by posttrain on the
same text: the peer's rounded weights are written back as a plain model. `--no-peer` leaves the peer out. Prints one
JSON line.
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

PEERS = ["llmcompressor==0.14.*", "datasets"]


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """One of posttrain's methods, by name; `none` measures the original."""
    from posttrain.core import catalog
    from posttrain.models.sources import load
    from posttrain.pipeline.speed import tokens_per_second

    model = load(arguments.folder)
    seconds = 0.0
    if arguments.method != "none":
        settings = {"bits": arguments.bits, "group_size": arguments.group_size, "symmetric": arguments.symmetric}
        method = catalog.build("quantize", {arguments.method: settings})
        start = time.perf_counter()
        method.quantize(model, json.loads(Path(arguments.tokens).read_text()))
        seconds = time.perf_counter() - start
    peak = peak_memory_mb()
    return {
        "seconds": seconds,
        "peak_memory_mb": peak,
        "bytes": model.nbytes(),
        "tokens_per_second": tokens_per_second(model),
        **_perplexity(model, arguments),
    }


def theirs(arguments: argparse.Namespace) -> dict[str, Any]:
    """llm-compressor's one-shot GPTQ; run inside the peer's environment."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32)
    plain = dict(model.named_parameters())  # the shared head under one name only
    rows = json.loads(Path(arguments.tokens).read_text())
    weights = {
        "num_bits": arguments.bits,
        "type": "int",
        "symmetric": arguments.symmetric,
        "strategy": "group",
        "group_size": arguments.group_size,
    }
    recipe = GPTQModifier(config_groups={"linear": {"targets": ["Linear"], "weights": weights}}, ignore=["lm_head"])
    start = time.perf_counter()
    oneshot(
        model=model,
        dataset=Dataset.from_list([{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]),
        recipe=recipe,
        max_seq_length=len(rows[0]),
        num_calibration_samples=len(rows),
    )
    seconds = time.perf_counter() - start
    tensors = {name: model.get_parameter(name).detach().contiguous() for name in plain}
    save_file(tensors, Path(arguments.rounded) / "model.safetensors", metadata={"format": "pt"})
    return {"seconds": seconds, "peak_memory_mb": peak_memory_mb()}


def _perplexity(model: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    from posttrain.measure.perplexity import Perplexity

    found = Perplexity(text=arguments.text, max_tokens=arguments.max_tokens).measure(model)
    return {"perplexity": found.value, "interval": found.interval}


def _calibration(arguments: argparse.Namespace) -> list[list[int]]:
    """Token ids as the step makes them."""
    from posttrain.models.sources import load
    from posttrain.pipeline.steps.quantize import Quantize

    step = Quantize.parse(
        {
            "gptq": {},
            "calibration": arguments.data,
            "calibration_rows": arguments.rows,
            "calibration_length": arguments.length,
        }
    )
    return step.sequences(load(arguments.model)) or []


def main() -> None:
    """Run all and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="builtin:handbook", help="calibration texts")
    parser.add_argument("--text", default="builtin:prose", help="what perplexity is measured on")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--symmetric", action="store_true")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=8192)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    for name in ("--folder", "--tokens", "--method", "--rounded"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps({"ours": ours, "theirs": theirs}[arguments.side](arguments)))
        return

    from posttrain.core.runtime import machine
    from posttrain.models import saving
    from posttrain.models.sources import load

    with tempfile.TemporaryDirectory() as scratch:
        folder, rounded, tokens = (Path(scratch) / name for name in ("model", "rounded", "tokens.json"))
        for target in (folder, rounded):  # the same float32 weights and tokenizer for all
            saving.save(load(arguments.model), target)
        tokens.write_text(json.dumps(_calibration(arguments)))
        shared = ["--text", arguments.text, "--tokens", str(tokens), "--max-tokens", str(arguments.max_tokens)]
        shared += ["--bits", str(arguments.bits), "--group-size", str(arguments.group_size)]
        shared += ["--symmetric"] if arguments.symmetric else []
        script = Path(__file__)

        def own(method: str, place: Path) -> dict[str, Any]:
            return child(sys.executable, script, "--side", "ours", "--method", method, "--folder", str(place), *shared)

        results = {method: own(method, folder) for method in ("none", "rtn", "gptq")}
        if not arguments.no_peer:
            places = ["--folder", str(folder), "--rounded", str(rounded)]
            peer = child(environment("llmcompressor", PEERS), script, "--side", "theirs", *places, *shared)
            peer["perplexity"] = own("none", rounded)["perplexity"]
            results["llm-compressor"] = peer
    report = {
        "benchmark": "quantize",
        "bits": arguments.bits,
        "group_size": arguments.group_size,
        "symmetric": arguments.symmetric,
        "calibration": {"data": arguments.data, "rows": arguments.rows, "length": arguments.length},
        "text": {"source": arguments.text, "max_tokens": arguments.max_tokens},
        "results": results,
        "machine": machine(),
    }
    if not arguments.no_peer:
        report["speed_ratio"] = results["llm-compressor"]["seconds"] / results["gptq"]["seconds"]
        report["memory_ratio"] = results["llm-compressor"]["peak_memory_mb"] / results["gptq"]["peak_memory_mb"]
        report["packages"] = PEERS
    print(json.dumps(report))


if __name__ == "__main__":
    main()
