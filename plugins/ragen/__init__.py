"""The sweeps of RAGEN-2 and the names of its keys are registered here."""
