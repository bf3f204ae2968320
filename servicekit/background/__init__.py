"""Loops beside the calls."""
