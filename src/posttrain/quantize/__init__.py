"""Quantization: fewer bits a weight, measured in bytes, quality and speed. Called, it is the API's `quantize`."""

from posttrain.core.verb import make_callable

make_callable(__name__)
