"""The compilation, as one list: capture is done; what follows is here in the order it happens."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optc.backends.aot.build import Emit
from optc.backends.program import Program
from optc.clock import Clock, Progress
from optc.contexts import pass_context
from optc.idle import Idle
from optc.ir.diagnostics import Diagnostic, InternalError, OptcError
from optc.ir.module import Module
from optc.ir.printer import print_module
from optc.ir.structural import module_digest
from optc.ir.targets.target import Target
from optc.observers import History, PassRecord, PassTimes
from optc.passes.base import Observer, Pass, PassContext, run_passes
from optc.passes.fusion.fuse import Fuse
from optc.passes.layout.assign_layout import AssignLayout
from optc.passes.memory.reorder_nodes import ReorderNodes
from optc.passes.memory.split_weights import SplitWeights
from optc.passes.pipeline import Pipeline
from optc.passes.precision.unpack_nibbles import UnpackNibbles
from optc.passes.standard import CANONICALIZE, LOWER, RAISE
from optc.payoff import Payoffs, spread

if TYPE_CHECKING:
    from optc.autotune.choice import Recorded
    from optc.backends.kernel import BuildKernels, Job, Kernel
    from optc.backends.tvm.cuda.kernel import CudaKernelBuilder
    from optc.backends.tvm.kernel import KernelBuilder
    from optc.measured_passes import Timings
    from optc.memory import Fit
    from optc.passes.early_exit.plan import ExitPlan
    from optc.quality.evidence import DataRequest, Evidence, Measured

WHOLE = SplitWeights()  # cuts nothing


@dataclass(frozen=True)
class Options:
    """What a user may choose besides model, target and output.

    `pipeline` are the user's passes; `exact` drops every pass that may change a bit; `cache` keeps
    compiled runtimes between calls; without it nothing is kept. `records` are what `optc tune`
    measured: kernels take the fastest settings in it, and the best guess where it says nothing.
    `data` is what passes may learn from, and what the artifact is judged on. `memory` is a budget
    in bytes: weights are streamed where that makes the artifact fit. With `judge_passes` each lossy
    pass is judged on some calibration data, to say whether it paid; with `measure_passes` it is
    timed as well, where this machine is the target. With `exact`, a budget of memory, or a pass
    that is to save bytes, convolutions keep to their definition: Winograd's way rounds differently
    and has larger weights.
    """

    pipeline: Pipeline = field(default_factory=Pipeline)
    exact: bool = False
    emit: tuple[Emit, ...] = (Emit.SHARED,)
    cache: Path | None = None
    seed: int = 0
    records: Path | None = None
    data: DataRequest | None = None
    memory: int | None = None
    judge_passes: bool = True
    measure_passes: bool = False

    def machine(self, target: Target) -> Target:
        """The machine as kernels are built for it."""
        plain = self.exact or self.memory is not None or self.pipeline.saves_bytes
        return replace(target, winograd=False) if plain else target


@dataclass(frozen=True)
class Compiled:
    """What a compilation made: the artifact on disk, and what was learnt on the way."""

    path: Path
    manifest: Mapping[str, Any]
    source: Module  # as captured; of two models the large one
    module: Module  # as compiled
    diagnostics: tuple[Diagnostic, ...]
    seconds: Mapping[str, float]  # by stage
    quality: Measured | None = None  # on held-out data, where there was data
    fit: Fit | None = None  # in the memory budget, where there was one
    exits: tuple[ExitPlan, ...] = ()  # what passes decided about leaving early
    passes: tuple[PassRecord, ...] = ()  # every run of a pass; of lossy ones, whether it paid
    timings: Timings | None = None  # beside the original's, where that was asked for


def passes_of(options: Options, split: SplitWeights = WHOLE) -> tuple[Pass, ...]:
    """Every pass of a compilation, in order."""
    return (*passes_ahead(options), *passes_behind(split))


def passes_ahead(options: Options) -> tuple[Pass, ...]:
    """Those up to the user's, which are the last."""
    return (
        *CANONICALIZE,  # fold, merge, simplify
        *RAISE,  # softmax, norms, activations and attention from their parts
        *options.pipeline.passes,  # what the user asked for
    )


def passes_behind(split: SplitWeights = WHOLE) -> tuple[Pass, ...]:
    """Those behind the user's."""
    return (
        *LOWER,  # decompose what no kernel takes
        AssignLayout(),  # channels last where it pays
        *CANONICALIZE,  # what layouts and the user's passes left behind
        split,  # so that the largest layer can be streamed
        UnpackNibbles(),  # 4-bit weights, two in a byte
        Fuse(),  # nodes into tasks, one kernel each
        ReorderNodes(),  # in an order that needs less memory at once
    )


def compile_module(
    module: Module,
    target: Target,
    out: Path,
    options: Options = Options(),
    *,
    observers: Sequence[Observer] = (),
    progress: Progress | None = None,
    tune: Callable[[Module], None] | None = None,
    original: Module | None = None,
    evidence: Evidence | None = None,
) -> Compiled:
    """Compile a captured module for a target into the folder, or `.optc` file, `out`.

    `tune` is called with the fused module before kernels are built and records are read.
    `original` is what the artifact is compared with, where that is not `module` itself; it has the
    same inputs and outputs. `evidence` is the data opened before, for several compilations of one
    model; else `options.data` is opened.
    Raises OptcError for what the user can mend and InternalError for what only we can.
    """
    from optc.backends.aot.package import write_artifact
    from optc.backends.assemble import assemble
    from optc.backends.grown import growths, told
    from optc.backends.tvm.builder import kernel_builder
    from optc.measured_passes import Milestones, Trial, building_once
    from optc.report.html import render

    clock = Clock(progress)
    target = options.machine(target)
    builder = kernel_builder(target)
    source = original or module
    evidence = evidence or _evidence(source, options, clock)
    context = _context(target, options, evidence)
    payoffs = _payoffs(target, evidence, options, context.exits)
    history, times, milestones = History(), PassTimes(payoffs), Milestones()
    kept = (milestones,) if options.measure_passes else ()
    idle = Idle(options.pipeline.passes, context.diagnostics)
    watchers = (history, times, idle, *kept, *observers)

    def builds(jobs: Sequence[Job]) -> Sequence[Kernel]:
        return builder.build(jobs, lambda done: clock.tick("kernels", done, len(jobs)))

    recorded = None if tune else _recorded(builder, target, options)
    build = building_once(builds)
    with clock.stage("passes"):
        ahead = run_passes(module, passes_ahead(options), context, watchers)
        split = _split(ahead, context, options, build)
        passes = passes_of(options, split)
        lowered = run_passes(ahead, passes_behind(split), context, watchers)
    if tune is not None:
        tune(lowered)
        recorded, build = _recorded(builder, target, options), building_once(builds)
    with clock.stage("kernels"), _reproducible(lowered):
        program = assemble(
            lowered,
            build,
            target,
            {
                "optc": version("optc"),
                "model": module_digest(module)[:16],
                **(evidence.names() if evidence else {}),
                **{key: text for plan in context.exits for key, text in plan.metadata().items()},
            },
        )
    growth = growths(lowered, build)
    program, fit = _fitted(told(program, growth), options)
    of_data = evidence.diagnostics if evidence else ()
    if options.data is not None and original is None:  # else choosing between models spends it
        chosen = () if options.exact else options.pipeline.passes
        of_data = (*of_data, *options.data.unspent(chosen))
    of_weights = [layer.remark() for layer in growth]
    of_passes = (*context.diagnostics, *idle.findings())
    diagnostics = (*of_data, *of_passes, *of_weights, *builder.diagnostics)
    quality = _measure(evidence, lowered, program, options, clock) if evidence else None
    timings = None
    if options.measure_passes:
        with clock.stage("timing"):
            plain = _context(target, options, None)
            bare = passes_of(replace(options, pipeline=Pipeline()), split)
            trial = Trial(plain, bare, passes_behind(split), build, options.cache)
            batches = evidence.calibration.batches if evidence else None
            timings = trial.timings(program, source, milestones.pairs, batches)
    records = timings.told(times.records) if timings else times.records
    with clock.stage("package"):
        exits = tuple(context.exits)
        facts = (records, diagnostics, quality, exits, timings, fit)
        page = render(source, lowered, program, target, *facts)
        extra = {
            **history.files(module),
            "lock.json": _lock(module, target, options, passes, recorded, evidence),
            "report.html": page.encode(),
        }
        written = write_artifact(program, out, emit=options.emit, extra=extra, cache=options.cache)
    return Compiled(
        written.path,
        written.manifest,
        source,
        lowered,
        diagnostics,
        clock.seconds,
        quality,
        fit,
        exits,
        passes=tuple(records),
        timings=timings,
    )


def lower_module(
    module: Module,
    target: Target,
    options: Options = Options(),
    observers: Sequence[Observer] = (),
    build: BuildKernels | None = None,
) -> Module:
    """What the passes of a compilation make of a module: fused, each node one kernel.

    `build` makes the kernels by whose bytes layers are cut, where there is a budget of memory.
    """
    from optc.backends.tvm.builder import kernel_builder

    evidence = _evidence(module, options, Clock(None))
    target = options.machine(target)
    context = _context(target, options, evidence)
    ahead = run_passes(module, passes_ahead(options), context, observers)
    split = _split(ahead, context, options, build or kernel_builder(target).build)
    return run_passes(ahead, passes_behind(split), context, observers)


def _context(target: Target, options: Options, evidence: Evidence | None) -> PassContext:
    exact, seed, cache = options.exact, options.seed, options.cache
    return pass_context(target, exact=exact, seed=seed, evidence=evidence, cache=cache)


def _evidence(module: Module, options: Options, clock: Clock) -> Evidence | None:
    """The user's data, read once and checked; None without any."""
    if options.data is None:
        return None
    from optc.quality.evidence import Evidence

    with clock.stage("data"):
        return Evidence(module, options.data, options.cache)


def _fitted(program: Program, options: Options) -> tuple[Program, Fit | None]:
    """The program within the memory budget; raises E0530 where that cannot be."""
    from optc.memory import fitted

    return (program, None) if options.memory is None else fitted(program, options.memory)


def _split(
    ahead: Module, context: PassContext, options: Options, build: BuildKernels
) -> SplitWeights:
    """How layers are cut, so that a budget of memory holds; none is without one."""
    from optc.backends.assemble import assemble
    from optc.splitting import splitting

    if options.memory is None:
        return WHOLE
    quiet = replace(context, diagnostics=[], observers=())

    def made(split: SplitWeights) -> Program:
        lowered = run_passes(ahead, passes_behind(split), quiet)
        with _reproducible(lowered):
            return assemble(lowered, build, context.target)

    return splitting(options.memory, made)


def _payoffs(
    target: Target, evidence: Evidence | None, options: Options, plans: Sequence[ExitPlan]
) -> Payoffs:
    """What tells whether lossy passes paid; without data, or unless asked for, not by quality."""
    if evidence is None or not options.judge_passes:
        return Payoffs(target, plans=plans)
    calls = spread(evidence.calibration.batches.calls)
    return Payoffs(target, evidence.judge, calls, plans)


def _measure(
    evidence: Evidence, lowered: Module, program: Program, options: Options, clock: Clock
) -> Measured:
    """Judge the artifact before it is written: its own report says how good it is."""
    from optc.backends.aot.package import write_artifact

    def progress(done: int, total: int) -> None:
        clock.tick("quality", done, total)

    with clock.stage("quality"), tempfile.TemporaryDirectory(prefix="optc-") as folder:
        if Emit.SHARED not in options.emit:
            return evidence.measure_module(lowered, "no shared library was made", progress)
        trial = write_artifact(program, Path(folder, "trial"), cache=options.cache)
        return evidence.measure_artifact(trial.path, lowered, progress)


@contextmanager
def _reproducible(module: Module) -> Iterator[None]:
    """Turn what a kernel builder raises into an InternalError that holds the graph it met."""
    try:
        yield
    except (OptcError, InternalError, MemoryError):
        raise
    except Exception as problem:
        raise KernelFailure(module, problem) from problem


class KernelFailure(InternalError):
    """A kernel could not be built. Holds what reproduces it: the module as it was fused."""

    def __init__(self, module: Module, problem: Exception) -> None:
        self.reproducer = print_module(module)
        first = str(problem).partition("\n")[0]
        super().__init__(f"a kernel could not be built: {type(problem).__name__}: {first}")


def _recorded(
    builder: KernelBuilder | CudaKernelBuilder, target: Target, options: Options
) -> Recorded | None:
    """Make a builder whose kernels can be tuned follow the records."""
    from optc.autotune.choice import Recorded
    from optc.autotune.records import Records
    from optc.backends.tvm.kernel import KernelBuilder

    if options.records is None or not isinstance(builder, KernelBuilder):
        return None
    recorded = builder.choose = Recorded(Records.existing(options.records), target)
    return recorded


def _lock(
    module: Module,
    target: Target,
    options: Options,
    passes: Sequence[Pass],
    recorded: Recorded | None,
    evidence: Evidence | None,
) -> bytes:
    """What it takes to make the same bytes again."""
    tools = ("optc", "torch", "apache-tvm", "apache-tvm-ffi", "ziglang", "numpy")
    record: dict[str, Any] = {
        "model": module_digest(module),
        "target": {"name": target.name, "cpu": target.cpu, "features": list(target.features)},
        "winograd": target.winograd,
        "cores": target.cores,
        "caches": {space.name: space.size for space in target.memory},
        "passes": [
            str(step) for step in passes if not (options.exact and step.effect.value != "exact")
        ],
        "seed": options.seed,
        "tools": {name: version(name) for name in tools},
    }
    if options.memory is not None:
        record["memory"] = options.memory
    if recorded is not None:
        record["tuned"] = {"digest": recorded.digest, "knobs": recorded.chosen}
    if evidence is not None:
        record["data"] = evidence.record()
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()
