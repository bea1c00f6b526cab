"""Calls between being listed and being given addresses: their operands are still roots."""

from __future__ import annotations

from dataclasses import dataclass

from optc.backends.kernel import Kernel
from optc.backends.program import Call, Copy, ExitIf, RunSegment, Segment, Space, Step
from optc.backends.storage import Root, label_of
from optc.backends.works import Work
from optc.ir.cost import compute_dtype, cost, reads


@dataclass(frozen=True, slots=True)
class Pending:
    """A call or copy whose operands are still roots."""

    roots: tuple[Root, ...]
    work: Work | None = None
    kernel: Kernel | None = None
    nbytes: int = 0
    label: str = ""


@dataclass(frozen=True, slots=True)
class PendingSegment:
    """Calls that run one after another."""

    name: str
    calls: list[Pending]


@dataclass(frozen=True, slots=True)
class PendingExit:
    """Where the flow may end: if `flag` says so, after `segment` has copied the results."""

    name: str
    flag: Root
    segment: str


def resolved_step(step: RunSegment | PendingExit) -> Step:
    """The step with the address of its flag."""
    if isinstance(step, RunSegment):
        return step
    return ExitIf(step.flag.at, (RunSegment(step.segment),), step.name)


def resolved(segment: PendingSegment) -> Segment:
    """The segment with the addresses of its calls."""
    return Segment(segment.name, tuple(_resolve(pending) for pending in segment.calls))


def _resolve(pending: Pending) -> Call | Copy:
    operands = tuple(root.at for root in pending.roots)
    if pending.work is None or pending.kernel is None:
        return Copy(operands[0], operands[1], pending.nbytes, pending.label)
    node, kernel = pending.work.node, pending.kernel
    price = cost(node)
    weights = sum(
        read
        for read, operand in zip(reads(node), operands, strict=False)
        if operand.space is Space.WEIGHTS
    )
    flops, moved = price.flops, price.bytes
    if kernel.flops is not None:  # its weights are other numbers, too, than the definition's
        held = sum(root.nbytes for root in pending.roots if root.at.space is Space.WEIGHTS)
        flops, moved, weights = kernel.flops, moved + held - weights, held
    return Call(
        kernel.symbol,
        operands,
        label_of(node),
        flops,
        moved,
        kernel.launches,
        price.bytes_written,
        weights,
        compute_dtype(node),
        kernel.template,
    )
