"""Token heads: backends that turn hidden states into log-probs, entropies and second moments."""
