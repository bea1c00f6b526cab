"""Where in the user's source a node of an exported program was written."""

from __future__ import annotations

import re

from torch import fx

from optc.ir.diagnostics import Loc

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_LIBRARY = re.compile(r"(^|/)(site-packages|dist-packages)/|(^|/)torch/(nn|fx|_|export|functional)")
_TORCH = re.compile(r"(^|/)torch/(nn|fx|_|export|functional|utils)")


def loc_of(node: fx.Node) -> Loc:
    """The innermost frame that is the user's own; else of a model library; else of torch."""
    file, line = _place(node.meta.get("stack_trace") or "")
    return Loc(file, line, _scope(node))


def _place(trace: str) -> tuple[str, int]:
    frames = [(found["file"], int(found["line"])) for found in _FRAME.finditer(trace)]
    frames = [frame for frame in frames if not frame[0].startswith("<")]
    for foreign in (_LIBRARY, _TORCH):
        own = [frame for frame in frames if not foreign.search(frame[0])]
        if own:
            return own[-1]
    return frames[-1] if frames else ("", 0)


def _scope(node: fx.Node) -> str:
    """Path of the innermost submodule, such as `encoder.layer.0`."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for key, (path, _) in stack.items() if not key.startswith("_empty_nn_module")]
    # A module called twice is `path@1` the second time.
    return re.sub(r"@\d+", "", paths[-1]) if paths else ""
