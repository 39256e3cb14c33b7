"""Which sequences of an update drive the entropy change."""
