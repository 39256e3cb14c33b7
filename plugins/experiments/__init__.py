"""Named experiments and the small models that they need."""
