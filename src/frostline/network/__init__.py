"""Networks, their graphs and stages, and the cut."""
