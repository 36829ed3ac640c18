"""What trains above the frostline."""
