"""Spaces, search, measuring and records: time spent now for kernels that run faster later."""
