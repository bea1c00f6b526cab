"""Attention in one kernel, from queries, keys and values where they lie: see `attend`.

Heads may be anywhere in memory: the transposes and slices that models make of merged projections
only change steps (see `image`). Values are copied when their columns do not fill vectors; keys and
values in 16 bits are widened once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.lower.element import pinned
from optc.backends.tvm.templates.attend import LOG2_E, Attend, AttendKnobs, Heads
from optc.backends.tvm.templates.attention_mask import MaskPack, turned_mask
from optc.backends.tvm.templates.fused import AnchorPlan, fused
from optc.backends.tvm.templates.image import Image, ImageReader
from optc.backends.tvm.templates.loops import FORK_CYCLES, Code, as_index
from optc.backends.tvm.templates.nest import digits_of
from optc.backends.tvm.templates.places import Coordinate
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Pack, Plan, Problem
from optc.backends.tvm.templates.tile import register_rows
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Attention as AttentionOp

_DTYPE = "float32"
_SPAN = 1024  # keys whose scores are kept at once
_SHARES_PER_CORE = 4
_HIDDEN = tirx.const(float("-inf"), _DTYPE)


@dataclass(frozen=True)
class Attention:
    """Template of fused attention."""

    name: str = "attention"
    version: int = 1

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes a task around one `attention`."""
        anchors = [n for n in problem.body.nodes if isinstance(n.op, AttentionOp)]
        if len(anchors) != 1:
            return Miss("the task has no single attention")
        (anchor,) = anchors
        if anchor.output.type.dtype not in (DType.F32, DType.F16, DType.BF16):
            return Miss(f"attention in {anchor.output.type.dtype} goes elsewhere")
        if not anchor.output.type.elements or not anchor.inputs[1].type.elements:
            return Miss("the attention is empty")
        task = fused(problem, anchor)
        return (
            task if isinstance(task, Miss) else AttentionPlan(task, f"{self.name}/{self.version}")
        )


@dataclass(frozen=True)
class AttentionPlan(AnchorPlan):
    """An attention and what is fused around it."""

    def candidates(self) -> Sequence[Knobs]:
        """Vectors of queries by tiles of keys, as many as fit the registers beside them, or fewer.

        Two vectors share the broadcasts of keys. One wastes less of what a causal mask hides.
        """
        keys = self.node.inputs[1].shape[-2]
        rows = -(-self.node.output.shape[-2] // self.target.lanes(DType.F32))
        assert isinstance(self.node.op, AttentionOp)
        order = (1, 2, 3, 4) if self.node.op.causal else (2, 1, 3, 4)
        found = []
        for vectors in order if rows > 1 else (1,):
            most = register_rows(self.target, vectors)
            sizes = (most, max(1, most - 4), max(1, most // 2))
            found += [AttendKnobs(vectors, min(keys, size), _SPAN) for size in sizes]
        return list(dict.fromkeys(found))

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One parallel loop over shares of the blocks of all heads."""
        if type(knobs) is not AttendKnobs:
            raise ValueError(f"attention does not know {knobs!r}")
        return _Emission(self, knobs).run(symbol)


class _Emission:
    def __init__(self, plan: AttentionPlan, knobs: AttendKnobs) -> None:
        self.plan, self.knobs, self.node = plan, knobs, plan.node
        assert isinstance(self.node.op, AttentionOp)
        self.op = self.node.op
        self.lanes = plan.target.lanes(DType.F32)
        self.q, self.k, self.v = (value.type for value in self.node.inputs[:3])
        self.packs = self._packs()
        self.io = plan.task.emitter(self.packs)
        self.code = Code()
        self.turned: Buffer | None = None

    def _packs(self) -> Mapping[int, Pack]:
        """A constant mask with a row for each query is turned at compile time."""
        problem = self.plan.task.problem
        for mask in self.node.inputs[3:]:
            if mask in problem.body.inputs and mask.shape[-2:-1] not in ((), (1,)):
                place = problem.body.inputs.index(mask)
                if place in problem.constants and problem.body.users[mask] == (self.node,):
                    return {place: MaskPack(self.knobs.vectors * self.lanes)}
        return {}

    def run(self, symbol: str) -> Emitted:
        code, plan = self.code, self.plan
        lead = self.q.shape[:-2]
        self._turn_mask()
        cycles = self._cycles()
        nest = Attend(
            code,
            self._heads(parallel=cycles > FORK_CYCLES),
            self.knobs,
            self.lanes,
            lambda vectors: register_rows(plan.target, vectors),
        )
        kinds = nest.blocks()
        blocks = sum(count for _, count, _, _ in kinds)
        items = math.prod(lead) * blocks
        shares = min(items, plan.target.cores * _SHARES_PER_CORE)
        if items % plan.target.cores == 0:
            shares = plan.target.cores
        with code.shared("share", shares, cycles) as share:
            memory = nest.scratch()
            low = code.bind(tirx.floordiv(share * items, shares), "low")
            high = code.bind(tirx.floordiv((share + 1) * items, shares), "high")
            with code.loop("item", high - low if shares > 1 else items) as step:
                item = code.bind(low + step, "item")
                *head, block = digits_of(self.code, item, [*lead, blocks])
                for first, count, vectors, rows in kinds:
                    start = code.bind(block * (self.knobs.vectors * self.lanes), "first")
                    with self._of_kind(block, first, count, blocks):
                        nest.emit(memory, head, start, vectors, rows)
        return self.io.finish(code, symbol)

    def _of_kind(
        self, block: Expr, first: int, count: int, blocks: int
    ) -> AbstractContextManager[None]:
        if count == blocks:
            return nullcontext()
        return self.code.when(block >= first if first else block < count)

    def _cycles(self) -> float:
        products = math.prod(self.q.shape[:-1]) * self.k.shape[-2]
        depth = self.q.shape[-1] + self.v.shape[-1] + 24
        return products * depth / (2 * self.lanes)

    def _heads(self, *, parallel: bool) -> Heads:
        group = self.q.shape[-3] // self.k.shape[-3]
        scale = self.op.scale * LOG2_E

        def query(head: Sequence[Expr], row: Expr, column: Expr) -> Expr:
            value = self.io.read(None, self.node.inputs[0], [*head, row, column])
            return _wide(value) * tirx.const(scale, _DTYPE)

        def key_head(head: Sequence[Expr]) -> list[Expr]:
            *lead, last = head
            return [*lead, last if group == 1 else tirx.floordiv(last, group)]

        def finish(head: Sequence[Expr], row: Expr, column: Coordinate, value: Expr) -> None:
            self.io.store(self.code, [*head, row, column], value)

        masked = len(self.node.inputs) > 3
        return Heads(
            rows=self.q.shape[-2],
            keys=self.k.shape[-2],
            depth=self.q.shape[-1],
            width=self.v.shape[-1],
            causal=self.op.causal,
            hides=masked or self.op.causal,
            query=query,
            key_head=key_head,
            key=self._reader(1, parallel).image(few=self.k.shape[-1]),
            value=self._values(parallel),
            score=self._score if masked else None,
            finish=finish,
            epilogue_size=self.plan.task.epilogue_size,
        )

    def _reader(self, place: int, parallel: bool) -> ImageReader:
        value = self.node.inputs[place]
        order = tuple(range(value.type.rank))
        return ImageReader(self.code, self.io, value, _DTYPE, order, self.lanes, parallel)

    def _values(self, parallel: bool) -> Image:
        reader = self._reader(2, parallel)
        if self.v.shape[-1] % self.lanes:
            return reader.copied(self.lanes)
        return reader.image(few=0)

    def _turn_mask(self) -> None:
        for mask in self.node.inputs[3:]:
            if self.packs or mask.shape[-2:] != (self.q.shape[-2], self.k.shape[-2]):
                continue  # turned already, or broadcast along an axis

            def element(index: Sequence[Expr], mask: Value = mask) -> Expr:
                item = self.io.read(None, mask, index)
                if mask.type.dtype is DType.BOOL:
                    return tirx.Select(item, tirx.const(0.0, _DTYPE), _HIDDEN)
                return _wide(item) * tirx.const(LOG2_E, _DTYPE)

            wide = self.knobs.vectors * self.lanes
            self.turned = turned_mask(self.code, mask.shape, element, wide, self.lanes)

    def _score(self, head: Sequence[Expr], row: Expr, key: Expr, score: Expr) -> Expr:
        """The score with its mask: hidden, or added to."""
        mask = self.node.inputs[3]
        bools = mask.type.dtype is DType.BOOL
        if self.turned is not None:
            item = self._across(self.turned, head, row, key)
            return tirx.Select(item < 0.0, _HIDDEN, score) if bools else score + item
        if self.packs:
            item = self._across(self.io.packed(mask), head, row, key)
        else:
            last = tirx.min(row, as_index(self.q.shape[-2] - 1))  # rows beyond the last repeat it
            item = self.io.read(None, mask, pinned([*head, last, key], mask.shape))
        if bools:
            return tirx.Select(item, score, _HIDDEN)
        return score + _wide(item) * tirx.const(LOG2_E, _DTYPE)

    def _across(self, turned: Buffer, head: Sequence[Expr], row: Expr, key: Expr) -> Expr:
        *lead, rows, keys = self.node.inputs[3].shape
        return turned[tuple(pinned([*head, key, row], (*lead, keys, rows)))]


def _wide(value: Expr) -> Expr:
    return value if value.ty.dtype == _DTYPE else tirx.Cast(_DTYPE, value)
