"""Transformations from Module to Module; one pass per file."""
