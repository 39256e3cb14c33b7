"""The built-in environments are text tasks of one or several turns."""
