"""Hypothesis strategies: op instances, whole graphs, and the numbers to run them on."""
