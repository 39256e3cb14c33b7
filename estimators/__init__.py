"""The built-in estimators compute advantages, policy losses, KL and the variance of the entropy probe."""
