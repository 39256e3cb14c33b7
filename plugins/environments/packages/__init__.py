"""Environments of other packages, each played through the package itself."""
