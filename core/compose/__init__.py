"""An experiment: its schema, its layers, what cannot be had together, its identity."""
