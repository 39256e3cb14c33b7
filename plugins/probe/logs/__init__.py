"""The detailed log of a probe."""
