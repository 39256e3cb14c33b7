"""Reports of sweeps: table, plots, one HTML page."""
