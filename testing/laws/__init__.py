"""The laws say what components of each kind must do; ``LAWS`` of a module maps its kinds to their laws."""
