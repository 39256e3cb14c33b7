"""Finding and loading checkpoints, with Adam's state by parameter."""
