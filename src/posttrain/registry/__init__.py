"""The registry: what is known of every model and run."""
