"""Benchmarks: tasks in small YAML files, and what runs and scores them. Called, it is the API's `bench`."""

from posttrain.core.verb import make_callable

make_callable(__name__)
