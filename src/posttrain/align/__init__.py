"""Alignment: training on preferences and rewards instead of examples. Called, it is the API's `align`."""

from posttrain.core.verb import make_callable

make_callable(__name__)
