"""Errors for the user: sentences, exit codes, suggestions."""

from __future__ import annotations

import pickle

import pytest

from posttrain.core.errors import BadRequest, Failure, Interrupted, PosttrainError, did_you_mean


@pytest.mark.parametrize(("error", "code"), [(BadRequest, 2), (Failure, 1), (Interrupted, 130)])
def test_exit_codes(error, code):
    assert error("x").exit_code == code
    assert issubclass(error, PosttrainError)


def test_the_sentence_carries_the_suggestion():
    error = BadRequest("The file is missing.", "Give another.")
    assert str(error) == "The file is missing. Give another."
    assert (error.problem, error.suggestion) == ("The file is missing.", "Give another.")
    assert str(Failure("The disk is full.")) == "The disk is full."


def test_an_error_keeps_both_parts_on_its_way_between_processes():
    copy = pickle.loads(pickle.dumps(BadRequest("Wrong.", "Right.")))
    assert str(copy) == "Wrong. Right."


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("rnak", ["rank", "alpha"], "Did you mean 'rank'?"),
        ("Top-K", ["top_k", "greedy"], "Did you mean 'top_k'?"),  # dashes and capitals don't matter
        ("top", ["top_k", "top_p", "min_p"], "Did you mean 'top_p' or 'top_k'?"),
        ("LORA", ["lora", "full"], "Did you mean 'lora'?"),
        ("float16", ["FLOAT16", "INT8"], "Did you mean 'FLOAT16'?"),  # neither in the known names
        ("b_per", ["B-PER", "O"], "Did you mean 'B-PER'?"),
        ("Text", ["text", "TEXT"], "Did you mean 'TEXT' or 'text'?"),
        ("zzz", ["beta", "alpha"], "Known: alpha, beta."),  # none is near: all of them, sorted
        ("zzz", [], ""),
    ],
)
def test_did_you_mean(name, known, sentence):
    assert did_you_mean(name, known) == sentence
