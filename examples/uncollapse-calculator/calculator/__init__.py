"""A plugin for uncollapse: an environment with a tool."""
