"""Export a model for another program: a GGUF file for llama.cpp, a quantized folder for vLLM, or an adapter for PEFT.

Whatever else can be told goes through --set, by the recipe's names: see `posttrain list export`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Model, form and place."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument("--to", required=True, metavar="FORM", help="one of `posttrain list export`")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="the file or folder to write")
    parser.add_argument("--type", metavar="TYPE", help="how matrices are stored (gguf: f16, q8_0, f32 and more)")
    parser.add_recipe_options("type=q8_0")


def run(request: Request) -> dict[str, Any]:
    """Form, place, bytes and what else the form reports."""
    from posttrain.cli.single_steps import overrides_of
    from posttrain.core.recipe import apply_overrides
    from posttrain.pipeline.api import export

    options = request.options
    settings = apply_overrides(given(options, "type"), overrides_of(options.to, options.set, ())[0])
    return export(options.model, options.to, options.out, **settings)
