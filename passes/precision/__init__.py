"""Passes that choose the numbers a model computes with: small integers, half precision."""
