"""Trackers take the metrics of a run somewhere."""
