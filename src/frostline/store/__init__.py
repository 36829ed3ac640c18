"""What is frozen is computed once: activations, found, made, kept and read."""
