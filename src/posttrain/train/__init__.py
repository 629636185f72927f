"""Training: one loop, and what it is made of. Called, it is the API's `train`."""

from posttrain.core.verb import make_callable

make_callable(__name__)
