"""Passes that group nodes into Tasks, each of which becomes one kernel."""
