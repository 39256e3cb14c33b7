"""The experiments of the probe get pictures and pages here."""
