"""The influence of each sequence of an update is its share of the entropy change."""
