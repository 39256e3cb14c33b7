"""Built-in rollout filters and the group metrics that they rank by."""
