"""Collapse detectors: watch a run, give a verdict with evidence."""
