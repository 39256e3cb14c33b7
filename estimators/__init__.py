"""Built-in estimators: advantages, KL and the variance of the entropy probe."""
