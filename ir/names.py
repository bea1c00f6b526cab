"""Names of values in text form: the hint where it is free, else the hint with a number."""

from __future__ import annotations

import re
from collections.abc import Mapping

from optc.ir.graph import Graph, Value

_UNFIT = re.compile(r"[^A-Za-z0-9_.]+")


def value_names(graph: Graph) -> Mapping[Value, str]:
    """A unique name for each value of the graph; the same graph always gets the same names."""
    names: dict[Value, str] = {}
    taken: set[str] = set()
    counts: dict[str, int] = {}
    for value in graph.values():
        base = _UNFIT.sub("_", value.hint) or "v"
        name = base
        while name in taken:
            counts[base] = counts.get(base, 0) + 1
            name = f"{base}_{counts[base]}"
        taken.add(name)
        names[value] = name
    return names
