"""Quantize a model: fewer bits a weight, with quality, size and speed measured before and after.

METHOD is one of `posttrain list quantize`. --set reaches its settings with or without its name: --set group_size=64 and
--set gptq.group_size=64 are the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Model, method, and the settings that most methods share."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument("method", help="how, as in `posttrain list quantize`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the quantized model is saved")
    parser.add_argument("--bits", type=int, metavar="N", help="bits a weight")
    parser.add_argument("--group-size", type=int, metavar="N", help="weights that share a scale")
    parser.add_argument(
        "--calibration", metavar="F", help="texts for methods that look at activations; builtin:handbook if not given"
    )
    parser.add_recipe_options("max_tokens=4096")


def run(request: Request) -> dict[str, Any]:
    """The step's result, and `out`."""
    from posttrain.cli.single_steps import run_method_step

    options = request.options
    method_settings = given(options, "bits", "group_size")
    settings = given(options, "calibration")
    return run_method_step("quantize", "method", options.method, method_settings, settings, options)
