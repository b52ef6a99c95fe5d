"""What changes a model while it runs, and what caused what in it."""
