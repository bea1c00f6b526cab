"""Matrix products with a constant right side: `linear`, and `matmul` by weights.

See `gemm_loops` for the loops, `gemm_cost` for what settings are estimated by, and `products_apart`
for what SSE does instead of broadcasting single elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from optc.backends.tvm.templates.fused import Fused, fused
from optc.backends.tvm.templates.gemm_cost import GemmKnobs, GemmShape
from optc.backends.tvm.templates.gemm_loops import GemmLoops
from optc.backends.tvm.templates.gemm_work import GemmWork
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.product import Product, multiplies
from optc.backends.tvm.templates.products_apart import in_two, most_rows
from optc.backends.tvm.templates.tail import MOST_ROWS
from optc.backends.tvm.templates.tile import register_rows
from optc.ir.ops import Linear, MatMul

_MOST_VECTORS = 8  # wider tiles only lower the rows
_MOST_TOGETHER = 2  # of sums that lie apart: LLVM keeps some of more in memory

_COPIED = 0.5  # cycles of an element of rows that end within a pair: they are laid out anew


@dataclass(frozen=True)
class Gemm:
    """Template of products with constant weights."""

    name: str = "gemm"
    version: int = 4

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes a task around one `linear` or `matmul` whose right side is a constant matrix."""
        anchors = [n for n in problem.body.nodes if isinstance(n.op, Linear | MatMul)]
        if len(anchors) != 1:
            return Miss("the task has no single matrix product")
        (anchor,) = anchors
        weight = anchor.inputs[1]
        constant = {problem.body.inputs[i] for i in problem.constants}
        if weight not in constant or problem.body.users[weight] != (anchor,):
            return Miss("the right side is not a constant of the product's own")
        if not Product(anchor).shared:
            return Miss("the right side is a batch of matrices")
        if not multiplies(anchor):
            return Miss(f"products of {anchor.inputs[0].type} go elsewhere")
        task = fused(problem, anchor)
        return task if isinstance(task, Miss) else GemmPlan(task)


@dataclass(frozen=True)
class GemmPlan:
    """A product, and the ways to multiply it."""

    task: Fused
    template: str = "gemm/4"

    @cached_property
    def plain(self) -> GemmWork:
        """With one sum for each result."""
        product = Product(self.task.anchor)
        return GemmWork(self.task, product.dot(self.task.problem.target, pairs=product.m > 1))

    @cached_property
    def apart(self) -> GemmWork | None:
        """With two, of even and of odd elements along K, where that may be faster."""
        dot = in_two(self.task.problem.target, self.plain.dot)
        return GemmWork(self.task, dot) if dot else None

    @property
    def shape(self) -> GemmShape:
        """What the cost depends on, with one sum for each result."""
        return self.plain.shape

    def way(self, knobs: GemmKnobs) -> GemmWork:
        """How these settings multiply."""
        return self.apart if knobs.apart and self.apart else self.plain

    def candidates(self) -> Sequence[Knobs]:
        """Tile shapes, the fewest estimated cycles first."""
        work, target = self.plain, self.task.problem.target
        found: list[GemmKnobs] = []
        for vectors in range(1, min(_MOST_VECTORS, -(-work.product.n // work.lanes)) + 1):
            most = register_rows(target, vectors, work.dot)
            if work.shape.may_have_tail:
                most = min(most, MOST_ROWS)
            found += self._tiles(work, vectors, most)
            for together in range(1, _MOST_TOGETHER + 1) if self.apart else ():
                if self.apart and vectors * self.apart.dot.sums % together == 0:
                    found += self._tiles(self.apart, vectors, most_rows(target, together), together)
        return sorted(dict.fromkeys(found), key=self.cycles)

    def _tiles(
        self, work: GemmWork, vectors: int, most: int, together: int = 0
    ) -> Iterator[GemmKnobs]:
        """Of at most so many rows, by panels of so many vectors of results."""
        m = work.product.m
        for limit in dict.fromkeys((most, min(most, work.shape.apart))):
            # Heights that differ by one at most; a lower one may suit the threads, and
            # strips that are all equal are one case.
            tiles = -(-m // limit)
            even = max(n for n in range(1, limit + 1) if m % n == 0)
            for count in dict.fromkeys((tiles, tiles + 1, m // even)):
                rows = -(-m // count)
                unroll = work.unroll(rows, vectors, count)
                knobs = GemmKnobs(rows, vectors, unroll, apart=together)
                yield from (replace(knobs, blocks=n) for n in work.shape.near_blocks(knobs))
                if count > 1 and work.may_be_cut:
                    unroll = work.unroll(rows, vectors, count, work.parts)
                    yield replace(knobs, unroll=unroll, parts=work.parts)

    def sections(self, knobs: GemmKnobs) -> int:
        """See GemmWork."""
        return self.way(knobs).sections(knobs)

    def cycles(self, knobs: GemmKnobs) -> float:
        """Estimated cycles until the last thread is done."""
        work = self.way(knobs)
        copied = work.product.k % work.dot.group if knobs.apart else 0
        return work.shape.cycles(knobs) + (
            _COPIED * work.product.m * work.product.k if copied else 0
        )

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One parallel loop over tiles."""
        if not isinstance(knobs, GemmKnobs):
            raise TypeError(f"gemm does not know {knobs!r}")
        return GemmLoops(self.way(knobs), knobs).run(symbol)
