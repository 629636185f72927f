"""Parsing: options anywhere, refusals in sentences."""

from __future__ import annotations

import pytest

from posttrain.cli.arguments import Parser, given, recipe_overrides
from posttrain.core.errors import BadRequest


@pytest.fixture
def parser():
    parser = Parser("try", "Try.")
    parser.add_argument("model")
    parser.add_argument("prompts", nargs="*")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--data", required=True)
    parser.add_recipe_options("a.b=c")
    return parser


@pytest.mark.parametrize(
    "words",
    [
        ["m", "p", "q", "--data", "d", "--steps", "3"],
        ["--steps", "3", "m", "--data", "d", "p", "q"],
        ["m", "--steps=3", "p", "--data=d", "q"],
        ["--data", "d", "--steps", "3", "--", "m", "p", "q"],
    ],
)
def test_options_may_stand_anywhere(parser, words):
    options = parser.parse(words)
    assert (options.model, options.prompts, options.steps, options.data) == ("m", ["p", "q"], 3, "d")


def test_after_two_dashes_a_word_may_begin_with_one(parser):
    assert parser.parse(["m", "--data", "d", "--", "-p"]).prompts == ["-p"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["m"], "The following arguments are required: --data. See posttrain try --help."),
        (["m", "--data", "d", "--stpes", "3"], "'posttrain try' has no option --stpes. Did you mean --steps?"),
        (["m", "--data", "d", "--step", "3"], "'posttrain try' has no option --step. Did you mean --steps?"),
        (["m", "--data", "d", "--xyz=1"], "'posttrain try' has no option --xyz. See posttrain try --help."),
        (["m", "--data", "d", "--steps", "x"], "Argument --steps: invalid int value: 'x'. See posttrain try --help."),
        (["m", "--data"], "Argument --data: expected one argument. See posttrain try --help."),
    ],
)
def test_refusals(parser, words, sentence):
    with pytest.raises(BadRequest) as refusal:
        parser.parse(words)
    assert str(refusal.value) == sentence


def test_one_argument_too_many():
    with pytest.raises(BadRequest, match=r"^'b' is one argument too many\. See posttrain try --help\.$"):
        Parser("try", "Try.").parse(["b"])


def test_only_what_was_given_is_passed_on(parser):
    options = parser.parse(["m", "--data", "d"])
    assert given(options, "steps", "data") == {"data": "d"}
    assert given(parser.parse(["m", "--data", "d", "--steps", "0"]), "steps") == {"steps": 0}


def test_seed_is_an_override_of_the_recipe(parser):
    options = parser.parse(["m", "--data", "d", "--set", "a=1", "--set", "b.c=2", "--seed", "0"])
    assert recipe_overrides(options) == ["a=1", "b.c=2", "seed=0"]
    assert recipe_overrides(parser.parse(["m", "--data", "d"])) == []


def test_subcommands_have_parsers_of_their_own():
    parser = Parser("try", "Try.")
    first = parser.add_subcommand("first", "Do this.")
    first.add_argument("model")
    first.add_argument("--steps", type=int)
    parser.add_subcommand("second", "Do that.").add_recipe_options("a=b")
    options = parser.parse(["first", "--steps", "3", "m", "--json"])
    assert (options.subcommand, options.model, options.steps, options.json) == ("first", "m", 3, True)
    assert parser.parse(["second", "--seed", "4"]).seed == 4
    assert "  first   Do this.\n  second  Do that." in parser.format_help()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "'posttrain try' needs a word that says what to do. Known: first."),
        (["--json"], "'posttrain try' needs a word that says what to do. Known: first."),
        (["frist"], "There is no 'posttrain try frist'. Did you mean 'first'?"),
        (["first", "--x"], "'posttrain try first' has no option --x. See posttrain try first --help."),
    ],
)
def test_refusals_of_subcommands(words, sentence):
    parser = Parser("try", "Try.")
    parser.add_subcommand("first", "Do this.")
    with pytest.raises(BadRequest) as refusal:
        parser.parse(words)
    assert str(refusal.value) == sentence


@pytest.mark.parametrize(
    ("seed", "sentence"), [("-1", "A seed is a whole number from 0 on, not -1"), ("x", "invalid seed value: 'x'")]
)
def test_seeds_are_whole_numbers_from_0_on(seed, sentence):
    parser = Parser("x", "Something.")
    parser.add_recipe_options("a=1")
    with pytest.raises(BadRequest, match=sentence):
        parser.parse(["--seed", seed])
