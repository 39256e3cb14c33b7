"""Collapse detectors watch a run and give verdicts with evidence."""
