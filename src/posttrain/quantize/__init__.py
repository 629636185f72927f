"""Quantization: fewer bits a weight, measured in bytes, quality and speed."""
