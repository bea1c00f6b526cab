"""Structural pruning: what is coupled to what, its removal from the graph, and what to remove."""
