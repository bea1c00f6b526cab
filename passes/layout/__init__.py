"""Passes that choose the order of dimensions kernels want and move the transposes away."""
