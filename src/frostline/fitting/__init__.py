"""A fit, step by step."""
