"""Mechanisms both services are built from. Knows neither service."""
