"""The built-in rollout filters choose groups, which group metrics rank."""
