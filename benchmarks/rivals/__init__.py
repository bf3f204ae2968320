"""What a user would take instead: one app and one client each. They get their stores' URLs from the environment."""
