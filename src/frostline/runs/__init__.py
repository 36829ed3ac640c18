"""The files that a fit writes."""
