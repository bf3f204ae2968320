"""The commands of playbook-runs, by noun."""
