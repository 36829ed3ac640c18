"""The classifier of a run: save, load and use it."""
