"""What a fit leaves on disk."""
