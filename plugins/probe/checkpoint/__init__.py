"""Checkpoints are found and loaded here, with Adam's state by parameter."""
