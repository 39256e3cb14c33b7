"""RAGEN-2's sweeps and key names."""
