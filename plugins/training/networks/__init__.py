"""The networks are policy, critic and reference; they are loaded, packed and adapted here."""
