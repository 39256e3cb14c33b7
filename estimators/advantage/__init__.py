"""Advantage estimators: credit for each sampled token."""
