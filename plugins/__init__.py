"""Every other built-in, one package per kind; each has a plugin.py that does nothing but register names."""
