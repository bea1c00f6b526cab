"""Passes that give equal graphs one spelling: folding, algebra, dead and equal nodes."""
