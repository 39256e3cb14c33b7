"""KL variants estimate the KL of each token; controllers move its coefficient."""
