"""Training above the frostline."""
