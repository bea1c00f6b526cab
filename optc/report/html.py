"""report.html: one page without outside parts that says what was done to a model, and why not more.

It goes into the artifact, so it holds nothing that a second compilation would find otherwise: sizes
and counts, no clock, unless the user asked that passes be timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import jinja2

from optc.backends.aot.memory_facts import describe_memory
from optc.backends.grown import grown_bytes
from optc.backends.program import Call, Program
from optc.inspect import ModuleFacts, inspect_module
from optc.ir.diagnostics import Diagnostic
from optc.ir.module import Module
from optc.ir.targets.target import Target
from optc.observers import PassRecord
from optc.report.exits import exit_lines, picture
from optc.report.memory_map import STYLE, MemoryMap, culprit_rows, map_svg
from optc.report.numbers import bytes_text, count_text
from optc.report.payoff import HEADS, how_timed, payoff_rows
from optc.report.quality import quality_rows
from optc.report.summary import budget_rows, size_rows, timing_rows

if TYPE_CHECKING:
    from optc.measured_passes import Timings
    from optc.memory import Fit
    from optc.passes.early_exit.plan import ExitPlan
    from optc.quality.evidence import Measured


@dataclass(frozen=True, slots=True)
class KernelLine:
    """One kernel call: what it is, where it is from, its share of all operations, who wrote it."""

    label: str
    place: str
    flops: str
    nbytes: str
    share: float
    template: str


@dataclass(frozen=True, slots=True)
class RemarkLine:
    """One remark with the number of times it was made."""

    code: str
    message: str
    place: str
    count: int


def render(
    source: Module,
    module: Module,
    program: Program,
    target: Target,
    passes: Sequence[PassRecord],
    diagnostics: Sequence[Diagnostic],
    quality: Measured | None = None,
    exits: Sequence[ExitPlan] = (),
    timings: Timings | None = None,
    fit: Fit | None = None,
) -> str:
    """The page, ending in a newline; equal inputs give equal text."""
    before, after = inspect_module(source), inspect_module(module)
    memory = {
        "arena_bytes": program.arena_bytes,
        "weights_bytes": program.weights_bytes,
        "stored_bytes": program.stored_bytes,
        "state_bytes": program.state_bytes,
        "peak_bytes": program.peak_bytes,
        "winograd_bytes": grown_bytes(program.metadata),
    }
    window = program.stream.window if program.stream is not None else 0
    drawn = MemoryMap.of(describe_memory(program), program.arena_bytes, window)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = files("optc.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        name=source.name,
        target=target,
        ports=(("input", source.inputs), ("output", module.outputs)),
        dropped=[port.name for port in source.outputs if port not in module.outputs],
        sizes=[*size_rows(before, after, memory), *budget_rows(fit), *timing_rows(timings)],
        passes=[record for record in passes if record.changed],
        payoffs=list(payoff_rows(passes)),
        payoff_heads=HEADS,
        timed=how_timed(timings) if timings is not None else "",
        idle=dict.fromkeys(record.name for record in passes if not record.changed),
        ops=_histograms(before, after),
        kernels=_kernels(program),
        memory=_memory(program),
        memory_map=map_svg(drawn),
        culprits=culprit_rows(drawn),
        map_style=STYLE,
        remarks=_remarks(diagnostics),
        exits=[(plan, exit_lines(plan, quality), picture(plan)) for plan in exits],
        quality=quality,
        quality_rows=list(quality_rows(quality)) if quality is not None else [],
    )


def _histograms(before: ModuleFacts, after: ModuleFacts) -> Sequence[tuple[str, int, int]]:
    names = dict.fromkeys((*before.ops, *after.ops))
    return [(name, before.ops.get(name, 0), after.ops.get(name, 0)) for name in names]


def _kernels(program: Program) -> Sequence[KernelLine]:
    calls = [call for segment in program.segments for call in segment.calls]
    total = sum(call.flops for call in calls if isinstance(call, Call)) or 1
    lines = []
    for call in calls:
        flops, nbytes = (call.flops, call.bytes) if isinstance(call, Call) else (0, 2 * call.nbytes)
        label, _, place = call.label.partition(" @ ")
        share = flops / total
        by = call.template if isinstance(call, Call) else ""
        lines.append(KernelLine(label, place, count_text(flops), bytes_text(nbytes), share, by))
    return lines


def _memory(program: Program) -> Sequence[tuple[str, str, float]]:
    plan = program.stream
    how = "read only, mapped" if plan is None else "a window, rows and what stays; the rest is read"
    parts = {
        f"weights ({how})": program.resident_weights,
        "arena (activations and workspaces)": program.arena_bytes,
        "states (kept from call to call)": program.state_bytes,
        "inputs and outputs (the caller's)": program.port_bytes,
    }
    total = program.peak_bytes or 1
    return [(text, bytes_text(nbytes), nbytes / total) for text, nbytes in parts.items()]


def _remarks(diagnostics: Sequence[Diagnostic]) -> Sequence[RemarkLine]:
    counts: dict[tuple[str, str, str], int] = {}
    for item in diagnostics:
        key = (item.code, item.message, str(item.loc))
        counts[key] = counts.get(key, 0) + 1
    return [RemarkLine(*key, count) for key, count in sorted(counts.items())]
