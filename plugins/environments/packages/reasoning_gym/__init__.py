"""The questions of the package reasoning_gym."""
