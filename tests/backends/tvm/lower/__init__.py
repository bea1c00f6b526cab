"""Lowerings against the reference."""
