"""Artifacts: the generated C driver, its runtime, linking for any CPU target, and packaging."""
