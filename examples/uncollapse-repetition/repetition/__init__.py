"""A plugin for uncollapse: a detector that measures, judges and keeps state."""
