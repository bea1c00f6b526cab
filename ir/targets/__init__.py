"""Machines as data: instruction sets, features, cores and memory spaces."""
