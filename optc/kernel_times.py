"""Kernels by the clock, for passes that ask: graphs with one layer each, many in one artifact.

They run one after the other, so that weights come from where they come from in a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from optc.inputs import random_arrays
from optc.ir.diagnostics import OptcError
from optc.ir.graph import Graph
from optc.ir.module import Flow, Module, Port, Run
from optc.ir.structural import graph_digest
from optc.ir.targets.detect import runs_here
from optc.ir.targets.target import Target
from optc.passes.base import PassContext, run_passes
from optc.passes.fusion.fuse import Fuse
from optc.passes.precision.unpack_nibbles import UnpackNibbles
from optc.passes.standard import LOWER
from optc.runtime import Artifact, KernelTime, load

AT_ONCE, BYTES = 64, 1 << 28  # graphs of an artifact, and their weights
SECONDS = 0.5  # of running an artifact, about
FEW, MANY = 5, 200  # runs


@dataclass
class KernelTimes:
    """Seconds of graphs compiled for a target, each asked once; see `optc.passes.base.Stopwatch`.

    `context` is what they are lowered in. Compiled runtimes are kept in `cache`.
    """

    context: PassContext
    cache: Path | None = None
    _known: dict[str, float] = field(default_factory=dict)

    def __call__(self, graphs: Sequence[Graph]) -> Sequence[float] | str:
        """The fastest run of the kernels of each; or why this machine cannot run them."""
        if not runs_here(self.context.target):
            return f"kernels for {self.context.target.name} do not run on this machine"
        keys = [graph_digest(graph) for graph in graphs]
        new = {k: g for k, g in zip(keys, graphs, strict=True) if k not in self._known}
        for part in _parts(tuple(new.items())):
            try:
                found = self._measured([graph for _, graph in part])
            except OptcError as problem:
                return problem.diagnostics[0].message
            self._known.update(zip((key for key, _ in part), found, strict=True))
        return [self._known[key] for key in keys]

    def _measured(self, graphs: Sequence[Graph]) -> list[float]:
        from optc.backends.aot.package import write_artifact
        from optc.backends.assemble import assemble
        from optc.backends.tvm.builder import kernel_builder

        target: Target = self.context.target
        module = run_passes(_together(graphs), (*LOWER, UnpackNibbles(), Fuse()), self.context)
        builder = kernel_builder(target)
        program = assemble(module, lambda jobs: builder.build(jobs, lambda done: None), target)
        with TemporaryDirectory(prefix="optc-") as folder:
            path = write_artifact(program, Path(folder, "kernels"), cache=self.cache).path
            with load(path, threads=target.cores, verify=False) as artifact:
                kernels = _profile(artifact)
        return [
            sum(k.fastest_ns for k in kernels if k.segment == _name(place)) * 1e-9
            for place in range(len(graphs))
        ]


def _profile(artifact: Artifact) -> Sequence[KernelTime]:
    inputs = random_arrays(artifact.inputs, 0)
    first = artifact.profile(**inputs, runs=2)
    once = sum(kernel.fastest_ns for kernel in first.kernels) * 1e-9
    runs = max(FEW, min(MANY, int(SECONDS / max(once, 1e-9))))
    return artifact.profile(**inputs, runs=runs).kernels


def _parts(items: Sequence[tuple[str, Graph]]) -> Iterator[Sequence[tuple[str, Graph]]]:
    part: list[tuple[str, Graph]] = []
    size = 0
    for key, graph in items:
        nbytes = sum(item.type.nbytes for item in graph.constants.values())
        if part and (len(part) == AT_ONCE or size + nbytes > BYTES):
            yield part
            part, size = [], 0
        part.append((key, graph))
        size += nbytes
    if part:
        yield part


def _name(place: int) -> str:
    return f"form_{place}"


def _together(graphs: Sequence[Graph]) -> Module:
    """A module that runs each of them; what they read are its inputs."""
    inputs, outputs, runs, renamed = [], [], [], []
    for place, graph in enumerate(graphs):
        taken = [Port(f"x{place}_{n}", v.type) for n, v in enumerate(graph.inputs)]
        given = [Port(f"y{place}_{n}", v.type) for n, v in enumerate(graph.outputs)]
        names = (tuple(port.name for port in ports) for ports in (taken, given))
        runs.append(Run(_name(place), *names))
        renamed.append(replace(graph, name=_name(place)))
        inputs += taken
        outputs += given
    flow = Flow(tuple(runs))
    return Module("kernels", tuple(inputs), tuple(outputs), (), tuple(renamed), flow)
