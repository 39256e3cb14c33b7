"""A plugin for uncollapse: a command."""
