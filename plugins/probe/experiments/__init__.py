"""The four experiments of the probe, their directories and their verdicts."""
