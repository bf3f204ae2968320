"""The life of an execution: claimed, kept under a lease, worked on, ended, reported."""
