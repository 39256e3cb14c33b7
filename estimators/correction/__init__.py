"""Weights that correct for a sampler whose probabilities are not the trainer's."""
