"""The probe has four experiments, with directories and verdicts."""
