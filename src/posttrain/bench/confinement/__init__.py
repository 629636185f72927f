"""Walls around a process that is going to run code nobody has read, for `posttrain.bench.sandbox`.

These modules run in a small interpreter of their own, so they import nothing but a little of the standard library.
"""
