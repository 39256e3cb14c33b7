"""Reward shaping: from the rewards of episodes to those that advantages see."""
