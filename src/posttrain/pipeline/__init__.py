"""The pipeline: a recipe's steps in order, each cached by what went into it, resumed where it stopped, and reported."""
