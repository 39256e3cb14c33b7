"""Weights and optimizer state on their way: checkpoints, exports, engines."""
