"""The deployable thing inside a run."""
