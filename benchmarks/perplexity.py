"""Sliding-window perplexity beside the usual transformers loop: same weights, tokens, window and stride, in one run.

    python benchmarks/perplexity.py --data wikitext-2-test.txt.gz

The peer is the loop of Hugging Face's page on the perplexity of fixed-length models, each window's mean loss weighted
by the number of tokens it is the mean of. Its time is the loop's alone; ours is all of `Perplexity.measure`: tokens,
scores, interval and signature. A third process measures with another batch size, which must change nothing. Prints one
JSON line: scored tokens a second, peak memory of each process, values, ratios.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peers import child


def ours(arguments: argparse.Namespace, batch_size: int = 2) -> dict[str, Any]:
    """posttrain's metric; 2 is its own default."""
    from posttrain.measure.perplexity import Perplexity
    from posttrain.models.sources import load

    model = load(arguments.folder)
    start = time.perf_counter()
    found = Perplexity(
        text=arguments.data,
        window=arguments.window,
        stride=arguments.stride,
        max_tokens=arguments.max_tokens,
        batch_size=batch_size,
    ).measure(model)
    seconds = time.perf_counter() - start
    numbers = _numbers(found.value, found.parts["tokens_scored"], seconds)
    return {**numbers, "interval": found.interval, "signature": found.signature}


def other_batch(arguments: argparse.Namespace) -> dict[str, Any]:
    """posttrain's metric with more windows in a pass."""
    return ours(arguments, arguments.batch_size)


def theirs(arguments: argparse.Namespace) -> dict[str, Any]:
    """The loop, window after window, with the model's own loss."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
    ids = tokenizer(_text(arguments.data), return_tensors="pt", verbose=False).input_ids[:, : arguments.max_tokens]
    length, previous, nats, tokens = ids.shape[1], 0, 0.0, 0
    start = time.perf_counter()
    for begin in range(0, length, arguments.stride):
        end = min(begin + arguments.window, length)
        labels = ids[:, begin:end].clone()
        labels[:, : previous - end] = -100  # only what no earlier window scored
        with torch.no_grad():
            loss = model(ids[:, begin:end], labels=labels).loss
        scored = int((labels[:, 1:] != -100).sum())
        nats, tokens, previous = nats + float(loss) * scored, tokens + scored, end
        if end == length:
            break
    return _numbers(math.exp(nats / tokens), tokens, time.perf_counter() - start)


def _text(path: str) -> str:
    data = Path(path).read_bytes()
    return (gzip.decompress(data) if path.endswith(".gz") else data).decode("utf-8")


def _numbers(perplexity: float, tokens: int, seconds: float) -> dict[str, Any]:
    from posttrain.core.runtime import peak_memory_mb

    return {
        "perplexity": perplexity,
        "tokens_scored": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_memory_mb": peak_memory_mb(),
    }


_SIDES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "ours": ours,
    "theirs": theirs,
    "other_batch": other_batch,
}


def main() -> None:
    """Run both and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="plain text, may be .gz")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--stride", type=int, default=512)
    parser.add_argument("--max-tokens", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=5, help="of the third process; 2 is the metric's own")
    parser.add_argument("--side", choices=list(_SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stride >= arguments.window:
        parser.error("the peer's loop leaves out tokens unless the stride is below the window")
    if arguments.side:
        print(json.dumps(_SIDES[arguments.side](arguments)))
        return

    from posttrain.core.runtime import machine
    from posttrain.models import saving
    from posttrain.models.sources import load

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"  # the same float32 weights and tokenizer for both
        saving.save(load(arguments.model), folder)
        shared = ["--data", arguments.data, "--folder", str(folder), "--window", str(arguments.window)]
        shared += ["--stride", str(arguments.stride), "--max-tokens", str(arguments.max_tokens)]
        shared += ["--batch-size", str(arguments.batch_size)]
        first, second, third = (child(sys.executable, Path(__file__), "--side", side, *shared) for side in _SIDES)
    report = {
        "benchmark": "perplexity",
        "speed_ratio": first["tokens_per_second"] / second["tokens_per_second"],
        "memory_ratio": second["peak_memory_mb"] / first["peak_memory_mb"],
        "relative_difference": first["perplexity"] / second["perplexity"] - 1,
        "batch_size_difference": third["perplexity"] / first["perplexity"] - 1,
        "window": arguments.window,
        "stride": arguments.stride,
        "ours": first,
        f"ours_with_batch_size_{arguments.batch_size}": third,
        "peer": {"name": "transformers, fixed-length recipe", **second},
        "machine": machine(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
