"""The command ``probe``."""
