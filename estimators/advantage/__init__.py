"""Advantage estimators give each sampled token its credit."""
