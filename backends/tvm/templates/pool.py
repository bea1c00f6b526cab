"""Max and average pools with channels last, a vector of channels at a time: see `slide`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.lower.element import is_nan, lowest
from optc.backends.tvm.lower.pooling import divisor
from optc.backends.tvm.templates.dot import BYTES
from optc.backends.tvm.templates.fused import AnchorPlan, fused
from optc.backends.tvm.templates.geometry import Geometry, pool_geometry
from optc.backends.tvm.templates.image import ImageReader, channels_at_end
from optc.backends.tvm.templates.loops import Code
from optc.backends.tvm.templates.places import Coordinate, Lane, plain
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.slide import Slide
from optc.backends.tvm.templates.slide_cost import candidates
from optc.backends.tvm.templates.slide_knobs import SlideKnobs
from optc.backends.tvm.templates.slide_tile import Fold
from optc.ir.dtype import DType
from optc.ir.graph import Node
from optc.ir.ops import AvgPool, MaxPool


@dataclass(frozen=True)
class Pooling:
    """Template of pools over windows of one size."""

    name: str = "pool"
    version: int = 3

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes a task around a `max_pool` or `avg_pool` with channels last; bytes only of max."""
        anchors = [n for n in problem.body.nodes if isinstance(n.op, MaxPool | AvgPool)]
        if len(anchors) != 1:
            return Miss("the task has no single pool")
        (anchor,) = anchors
        if not anchor.op.channels_last:  # type: ignore[attr-defined]
            return Miss("channels come first")
        kind = anchor.output.type.dtype
        exact = kind in BYTES and isinstance(anchor.op, MaxPool)
        if not (kind.is_float or exact) or not anchor.output.type.elements:
            return Miss(f"pools to {anchor.output.type} go elsewhere")
        task = fused(problem, anchor)
        return task if isinstance(task, Miss) else PoolPlan(task, f"{self.name}/{self.version}")


@dataclass(frozen=True)
class PoolPlan(AnchorPlan):
    """A pool and what is fused around it."""

    @cached_property
    def shape(self) -> Geometry:
        """The loop bounds."""
        return pool_geometry(self.node)

    def candidates(self) -> Sequence[Knobs]:
        """Tiles that fit the registers, by rising cost."""
        found = candidates(self.shape, self.target, self.target.lanes(sum_of(self.node)))
        return [knobs for knobs in found if knobs.rows == 1]

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One parallel loop over stretches of rows."""
        if type(knobs) is not SlideKnobs:
            raise ValueError(f"pool does not know {knobs!r}")
        return _Emission(self, knobs).run(symbol)


def sum_of(node: Node) -> DType:
    """The type that a pool's sums are kept in."""
    dtype = node.output.type.dtype
    return dtype if dtype is DType.F64 or dtype in BYTES else DType.F32


class _Emission:
    def __init__(self, plan: PoolPlan, knobs: SlideKnobs) -> None:
        self.plan, self.knobs, self.node = plan, knobs, plan.node
        self.sum = sum_of(self.node)
        self.io = plan.task.emitter()
        self.code = Code()

    def run(self, symbol: str) -> Emitted:
        plan, x = self.plan, self.node.inputs[0]
        lanes, dtype = plan.target.lanes(self.sum), tvm_dtype(self.sum)
        largest = isinstance(self.node.op, MaxPool)
        start = lowest(self.sum) if largest else tirx.const(0, dtype)
        fold = Fold(dtype, start, self._larger if largest else self._add, self._finish)
        stored = tvm_dtype(x.type.dtype)
        order = channels_at_end(x.type.rank, channels_last=True)
        reader = ImageReader(self.code, self.io, x, stored, order, lanes, plan.target.cores > 1)
        image = reader.image(few=1)
        Slide(
            self.code, plan.shape, self.knobs, image, fold, plan.target, lanes, written_out=0
        ).run()
        return self.io.finish(self.code, symbol)

    def _add(self, total: Expr, element: Expr, tap: Expr, channel: Lane) -> Expr:
        return total + self.wide(element)

    def _larger(self, best: Expr, element: Expr, tap: Expr, channel: Lane) -> Expr:
        item = self.wide(element)
        if not self.sum.is_float:
            return tirx.max(item, best)
        # The second test lets a nan in; nothing is larger than it afterwards.
        return tirx.Select(tirx.any(item > best, is_nan(item, self.sum)), item, best)

    def _finish(self, batch: Expr, place: Sequence[Expr], channel: Coordinate, value: Expr) -> None:
        op, index = self.node.op, self.plan.shape.index(batch, tuple(place), channel)
        if isinstance(op, AvgPool):
            value = value / divisor(op, self.node.inputs[0].type, plain(index), self.sum)
        self.io.store(self.code, index, value)

    def wide(self, value: Expr) -> Expr:
        """The value in the type that sums are kept in."""
        dtype = tvm_dtype(self.sum)
        return value if value.ty.dtype == dtype else tirx.Cast(dtype, value)
