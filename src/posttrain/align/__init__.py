"""Alignment: training on preferences and rewards instead of examples."""
