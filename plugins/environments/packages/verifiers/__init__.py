"""The environments of the package verifiers."""
