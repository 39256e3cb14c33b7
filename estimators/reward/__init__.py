"""Reward shaping turns the rewards of episodes into those that advantages see."""
