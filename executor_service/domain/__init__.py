"""The nouns that all rooms share. Of the service they import `playbooks` only."""
