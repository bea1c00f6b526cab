"""Where in the user's source a node of an exported program was written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from torch import fx
from torch.export import ExportedProgram

from optc.ir.diagnostics import Loc

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_LIBRARY = re.compile(r"(^|/)(site-packages|dist-packages)/|(^|/)torch/(nn|fx|_|export|functional)")
_TORCH = re.compile(r"(^|/)torch/(nn|fx|_|export|functional|utils)")


def loc_of(node: fx.Node, origins: Mapping[str, Loc] = MappingProxyType({})) -> Loc:
    """The innermost frame that is the user's own; else of a model library; else of torch.

    Decomposing loses the place of what lies in a region such as `torch.no_grad()`: see `origins`.
    """
    file, line = _place(node.meta.get("stack_trace") or "")
    if not file and origins:
        sources = [origins[name] for name in _ancestors(node) if name in origins]
        file, line = (sources[0].file, sources[0].line) if sources else ("", 0)
    return Loc(file, line, _scope(node))


def origins_of(program: ExportedProgram) -> Mapping[str, Loc]:
    """Places of the nodes in a program's regions, by name; names that two regions share are out."""
    found: dict[str, set[Loc]] = {}
    for name, region in program.graph_module.named_modules():
        if name and isinstance(region, fx.GraphModule):
            for node in region.graph.nodes:
                if node.meta.get("stack_trace"):
                    found.setdefault(node.name, set()).add(loc_of(node))
    return {name: next(iter(places)) for name, places in found.items() if len(places) == 1}


def _ancestors(node: fx.Node) -> Iterator[str]:
    """Names of the nodes that a node was made from, nearest first."""
    sources = list(node.meta.get("from_node") or ())
    while sources:
        source = sources.pop()
        yield source.name
        sources += source.from_node


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
