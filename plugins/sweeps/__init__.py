"""Named sweeps."""
