"""Policy losses are surrogates of the objective, per token."""
