"""Corrections weigh tokens of a sampler whose probabilities are not the trainer's."""
