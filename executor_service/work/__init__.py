"""What runs of each type do."""
