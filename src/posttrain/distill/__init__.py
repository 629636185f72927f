"""Distillation: a small model learns from a large one. Called, it is the API's `distill`."""

from posttrain.core.verb import make_callable

make_callable(__name__)
