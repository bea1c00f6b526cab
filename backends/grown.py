"""Weights that Winograd's filtering lays out larger than they are: layer by layer, and in all.

It is time that a compilation saves unless told otherwise, and this is what it pays: people who ship
the file want to know which layers it is, and how to have it otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optc.backends.kernel import BuildKernels
from optc.backends.program import Program
from optc.backends.works import works_of
from optc.ir.diagnostics import Diagnostic, Loc, Severity
from optc.ir.graph import Node
from optc.ir.module import Module
from optc.ir.ops import Conv, Task

CODE, KEY = "N0540", "winograd_bytes"
TEMPLATE = "winograd"


@dataclass(frozen=True, slots=True)
class Growth:
    """A layer, and the bytes of its weights in the model and as its kernel reads them."""

    name: str
    loc: Loc
    before: int
    after: int

    def remark(self) -> Diagnostic:
        """N0540."""
        old, new = self.before / 1e6, self.after / 1e6
        return Diagnostic(
            CODE,
            f"conv {self.name}: computed by Winograd's filtering, whose weights take {new:.3g} MB "
            f"for {old:.3g}; `--target NAME:winograd=off` keeps to the direct way",
            Severity.REMARK,
            self.loc,
        )


def growths(module: Module, build: BuildKernels) -> Sequence[Growth]:
    """The layers of a fused module whose kernels `build` has built, or builds, in that way."""
    graphs = [graph for graph in module.graphs if any(map(_convolutions, graph.nodes))]
    works = [work for graph in graphs for work in works_of(graph) if _convolutions(work.node)]
    jobs = {work.key: work.job for work in works}
    kernels = dict(zip(jobs, build(tuple(jobs.values())), strict=True))
    found = []
    for work in works:
        kernel = kernels[work.key]
        if not kernel.template.startswith(TEMPLATE):
            continue
        for place, pack in kernel.packs.items():
            natural = work.job.body.inputs[place].type
            before, after = natural.nbytes, pack.type(natural).nbytes
            if after > before:
                conv = _convolutions(work.node)[0]
                found.append(Growth(work.inputs[place].hint, conv.loc, before, after))
    return found


def _convolutions(node: Node) -> Sequence[Node]:
    nodes = node.op.body.nodes if isinstance(node.op, Task) else (node,)
    return [inner for inner in nodes if isinstance(inner.op, Conv)]


def told(program: Program, found: Sequence[Growth]) -> Program:
    """The program whose metadata say by how many bytes weights have grown, if they have."""
    grown = sum(layer.after - layer.before for layer in found)
    if not grown:
        return program
    return replace(program, metadata={**program.metadata, KEY: str(grown)})


def grown_bytes(metadata: Mapping[str, str]) -> int:
    """By how many bytes weights have grown, as a program's or a manifest's metadata say."""
    return int(metadata.get(KEY, 0))
