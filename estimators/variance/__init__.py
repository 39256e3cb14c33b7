"""Variance estimators: how far the entropy change that the probe predicts, and the one it measures, can be trusted."""
