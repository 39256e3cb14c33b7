"""The games of the package textarena."""
