"""Token heads turn hidden states into log-probs, entropies and second moments."""
