"""Suggestions for products, written by an AI provider or without one."""
