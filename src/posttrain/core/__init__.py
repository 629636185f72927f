"""The ground everything stands on: catalog, settings, recipe, runtime, files, events, errors."""
