"""Did each lossy pass pay, by the clock: the module before it and after it, as artifacts.

Each goes through the rest of a compilation without what the user's later passes do, and all run
side by side on calibration samples, the original among them. Kernels that several have are built
once. Where the target is not this machine, nothing is measured, and the reason is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from optc.backends.aot.package import write_artifact
from optc.backends.assemble import assemble
from optc.backends.program import Program
from optc.inputs import random_arrays
from optc.ir.diagnostics import OptcError
from optc.ir.module import Module
from optc.ir.structural import module_digest
from optc.observers import PassRecord
from optc.passes.base import Pass, PassContext, run_passes
from optc.payoff import is_judged, spread
from optc.runtime import Artifact, load
from optc.turns import Call, Pair, take_turns

if TYPE_CHECKING:
    from optc.backends.kernel import BuildKernels, Job, Kernel
    from optc.passes.calibration import Batches

ARTIFACT = "artifact"


@dataclass
class Milestones:
    """An observer that keeps the modules before and after every lossy pass that did something."""

    pairs: list[tuple[Module, Module]] = field(default_factory=list)

    def before(self, step: Pass, module: Module) -> None:
        """Nothing to note."""

    def after(self, step: Pass, before: Module, after: Module) -> None:
        """Keep both."""
        if is_judged(step, before, after):
            self.pairs.append((before, after))


@dataclass(frozen=True, slots=True)
class Timings:
    """The original beside the artifact; None and the reason where this machine cannot run it."""

    whole: Pair | None
    passes: tuple[Pair, ...] = ()  # of the lossy passes, in order
    turns: int = 0
    calls: int = 0  # of a turn
    threads: int = 0
    reason: str = ""

    def told(self, records: Sequence[PassRecord]) -> list[PassRecord]:
        """The records of passes with what was measured of them."""
        pairs = iter(self.passes)
        return [
            record
            if record.payoff is None or not self.passes
            else replace(record, payoff=replace(record.payoff, measured=next(pairs)))
            for record in records
        ]


@dataclass(frozen=True)
class Trial:
    """How modules become artifacts here.

    Those between lossy passes go through `behind`, what a compilation does behind the user's
    passes; the original through `whole`, a compilation without any.
    """

    context: PassContext
    whole: Sequence[Pass]
    behind: Sequence[Pass]
    build: BuildKernels
    cache: Path | None

    def timings(
        self,
        program: Program,
        original: Module,
        milestones: Sequence[tuple[Module, Module]],
        batches: Batches | None,
    ) -> Timings:
        """Build and time everything; `program` is the artifact's, whose memory is as was asked."""
        with ExitStack() as stack:
            opened = _Opened(Path(stack.enter_context(TemporaryDirectory(prefix="optc-"))), stack)
            try:
                self._open(opened, ARTIFACT, program)
            except OptcError as problem:
                return Timings(None, reason=problem.diagnostics[0].message)
            whole = self._tried(opened, original, self.whole)
            names = [
                (self._tried(opened, before, self.behind), self._tried(opened, after, self.behind))
                for before, after in milestones
            ]
            calls = list(_calls(opened.artifacts[ARTIFACT], batches))
            times = take_turns(list(opened.artifacts.values()), calls)
            of = dict(zip(opened.artifacts, times, strict=True))
        pairs = tuple(Pair.of(of[before], of[after]) for before, after in names)
        turns, count = of[ARTIFACT].shape
        threads = self.context.target.cores
        return Timings(Pair.of(of[whole], of[ARTIFACT]), pairs, turns, count, threads)

    def _tried(self, opened: _Opened, module: Module, passes: Sequence[Pass]) -> str:
        """The name of the artifact of a module; equal ones are one."""
        lowered = run_passes(module, passes, self.context)
        name = module_digest(lowered)
        if name not in opened.artifacts:
            self._open(opened, name, assemble(lowered, self.build, self.context.target))
        return name

    def _open(self, opened: _Opened, name: str, program: Program) -> None:
        path = write_artifact(program, opened.folder / name, cache=self.cache).path
        artifact = load(path, threads=self.context.target.cores, verify=False)
        opened.artifacts[name] = opened.stack.enter_context(artifact)


@dataclass(frozen=True)
class _Opened:
    """Artifacts in a folder, by name, closed with the stack."""

    folder: Path
    stack: ExitStack
    artifacts: dict[str, Artifact] = field(default_factory=dict)


def _calls(artifact: Artifact, batches: Batches | None) -> Iterator[Call]:
    """Inputs of calls: samples where there are any, evenly over the part, else random numbers."""
    if batches is None or not batches.calls:
        yield random_arrays(artifact.inputs, 0)
        return
    chosen = spread(batches.calls)
    yield from (
        batch.inputs for number, batch in enumerate(batches) if chosen is None or number in chosen
    )


def building_once(build: BuildKernels) -> BuildKernels:
    """A builder that remembers kernels from program to program."""
    known: dict[str, Kernel] = {}

    def kernels(jobs: Sequence[Job]) -> list[Kernel]:
        new = {job.structure: job for job in jobs if job.structure not in known}
        known.update(zip(new, build(tuple(new.values())), strict=True))
        return [known[job.structure] for job in jobs]

    return kernels
