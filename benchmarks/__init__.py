"""Measurements, and the models that they and the tests use; not installed with the package."""
