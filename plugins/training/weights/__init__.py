"""Weights and optimizer state go to checkpoints, exports and engines."""
