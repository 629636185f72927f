"""Language models: where they come from, what they are made of, and how one pass through them is run."""
