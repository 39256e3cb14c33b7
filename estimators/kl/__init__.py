"""Per-token KL estimates and coefficient controllers."""
