"""The text form: what `optc opt` reads and writes, and what golden pages hold."""

from __future__ import annotations

from optc.ir.module import Module
from optc.ir.parser import Weights, parse_module
from optc.ir.printer import print_graph, print_module

__all__ = ["Weights", "parse", "print_graph", "print_module"]


def parse(text: str, *, weights: Weights | None = None, name: str = "<text>") -> Module:
    """Read a module (or one graph, as the module that runs it); raises E0101 with the place."""
    return parse_module(text, weights=weights, name=name)
