"""Surrogate losses of the policy, per token."""
