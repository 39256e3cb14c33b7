"""Launchers: run the jobs of a sweep on slots."""
