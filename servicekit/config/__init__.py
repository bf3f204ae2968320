"""Settings out of the environment."""
