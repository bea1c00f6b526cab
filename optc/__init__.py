"""optc: a compiler for deployment.

    import optc
    artifact = optc.compile(optc.capture(model, (x,)), target="cortex-a76", out="out/")
    y = optc.load("out/")(x)
    model = optc.to_torch(optc.capture("model.pt2"))      # trainable, to be captured again

What a user can mend is raised as `optc.OptcError`, whose `diagnostics` have codes, places and help.
Importing optc loads neither torch nor tvm; `load` needs numpy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optc.api import capture, compile
    from optc.backends.reference.to_torch import to_torch
    from optc.ir.diagnostics import OptcError
    from optc.runtime import load

__all__ = ["OptcError", "capture", "compile", "load", "to_torch"]

_PLACES = {
    "OptcError": "optc.ir.diagnostics",
    "capture": "optc.api",
    "compile": "optc.api",
    "load": "optc.runtime",
    "to_torch": "optc.backends.reference.to_torch",
}


def __getattr__(name: str) -> object:
    """Import what the façade offers when they are first asked for."""
    import importlib

    if name not in _PLACES:
        raise AttributeError(f"module 'optc' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
