"""Entropy controllers move the coefficient of the entropy bonus."""
