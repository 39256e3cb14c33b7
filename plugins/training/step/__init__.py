"""One training step: its stages in their order, and what they hand on."""
