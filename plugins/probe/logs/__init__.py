"""The detailed log of a probe is written here."""
