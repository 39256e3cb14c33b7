"""The environments that servers of OpenEnv offer."""
