"""What runs a frozen part."""
