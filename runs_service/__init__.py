"""Accepts runs, keeps their history, and lets anyone watch. The only writer of the schema `runs`."""
