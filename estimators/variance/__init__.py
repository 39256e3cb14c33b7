"""Variance estimators say how far the entropy changes that the probe predicts and measures can be trusted."""
