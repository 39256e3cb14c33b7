"""Pictures and pages of the experiments."""
