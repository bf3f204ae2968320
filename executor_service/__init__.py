"""Executes runs: the service behind runs_service."""
