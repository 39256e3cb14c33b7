"""A warm start: supervised steps on demonstrations before reinforcement learning."""
