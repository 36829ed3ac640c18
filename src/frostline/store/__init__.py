"""The store of activations: the frozen part is computed once, and its outputs are stored and read."""
