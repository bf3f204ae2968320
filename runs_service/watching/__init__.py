"""Changes of runs on their way to watchers."""
