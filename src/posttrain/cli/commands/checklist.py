"""Behavioural tests of a model: what it must be able to do, what must not change its answer, what must move it.

The suite language_model tests a model that continues texts, sentiment a classifier as well; a file of your own ends in
.yaml. Each test and each capability gets a failure rate with a 95 % interval, and failing cases are shown.
"""

from __future__ import annotations

from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Model and suite."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME; or a classifier")
    parser.add_argument("suite", help="a suite, as `posttrain list suite` shows them, or a .yaml file")
    parser.add_argument("--samples", type=int, metavar="N", help="draw at most N cases for each test")
    parser.add_argument("--examples", type=int, metavar="N", help="failing cases shown of each test (3)")
    parser.add_argument("--chat", action="store_true", default=None, help="ask through the model's chat template")
    parser.add_recipe_options("labels.positive=LABEL_1")


def run(request: Request) -> dict[str, Any]:
    """`failure_rate`, `interval`, `failures`, `n`, by `capabilities` and by `tests` with cases that fail."""
    from posttrain.cli.single_steps import part
    from posttrain.core.recipe import apply_overrides
    from posttrain.pipeline.evaluation_api import checklist

    options = request.options
    settings = {"suite": options.suite, **given(options, "samples", "examples", "chat")}
    values, place = part(apply_overrides(settings, options.set), options.seed)
    return checklist(options.model, **values, **place)


def show(result: dict[str, Any]) -> None:
    """Tables of capabilities and tests, and the failing cases."""
    from rich.text import Text

    from posttrain.cli.presentation import table_of, write

    keys = ("failure_rate", "interval", "failures", "n")
    capabilities = [{"capability": name, **rate} for name, rate in result["capabilities"].items()]
    told = ("name", "capability", "kind", *keys, "by_chance")
    write(table_of([{key: each[key] for key in ("capability", *keys)} for each in capabilities]))
    write("", table_of([{key: test[key] for key in told} for test in result["tests"]]))
    for test in result["tests"]:
        if test["failing"]:
            write("", Text(f"{test['name']}: {test['failures']} of {test['n']} fail", "bold"))
        for case in test["failing"]:
            for text, answer in zip(case["texts"], case["predictions"]):
                shares = answer.get("probabilities")
                said = f"{answer['label']} {shares[answer['label']]:.2f}" if shares else answer["written"].strip()
                write(Text(f"  {text}  →  {said}"))
            if "expected" in case:
                write(Text(f"    expected: {case['expected']}", "dim"))
    write("", Text(result["signature"], "dim"))
