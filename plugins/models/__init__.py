"""Language models that stay as they are: they judge answers and play opponents."""
