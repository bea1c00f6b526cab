"""Every pass by name, as lazy `name -> "module:Class"` lines; third parties join by entry point."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from types import MappingProxyType

from optc.ir.diagnostics import error
from optc.passes.base import Pass

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "fuse": "optc.passes.fusion.fuse:Fuse",
    }
)  # fmt: skip
GROUP = "optc.passes"


def names() -> Mapping[str, str]:
    """All pass names with their places; raises E0131 when a plugin takes a name that is taken."""
    table = dict(BUILT_IN)
    for plugin in entry_points(group=GROUP):
        if table.get(plugin.name, plugin.value) != plugin.value:
            both = f"{table[plugin.name]} and {plugin.value}"
            raise error("E0131", f"two passes are called {plugin.name}: {both}")
        table[plugin.name] = plugin.value
    return table


def find_pass(name: str) -> type[Pass]:
    """The class of the pass called `name`; raises E0130 with the nearest names."""
    table = names()
    if name not in table:
        near = get_close_matches(name, table, 3, 0.4)
        offer = f"; did you mean {', '.join(near)}?" if near else ""
        raise error("E0130", f"unknown pass {name!r}{offer}", help="optc passes")
    module, _, cls = table[name].partition(":")
    found: type[Pass] = getattr(importlib.import_module(module), cls)
    return found
