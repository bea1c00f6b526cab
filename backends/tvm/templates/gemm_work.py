"""A product with constant weights, one way of multiplying it, and how its weights are fetched.

The plan and the loops of `gemm` both work on this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from optc.backends.tvm.templates.dot import Dot
from optc.backends.tvm.templates.fused import Fused
from optc.backends.tvm.templates.gemm_cost import LINE, GemmKnobs, GemmShape
from optc.backends.tvm.templates.product import Product
from optc.backends.tvm.templates.tile import FLOATS, broadcasts_lanes
from optc.ir.targets.target import Target

_UNROLL = 2  # steps of K per loop iteration: more only takes time to compile
_UNROLL_APART = 4
_FAR_UNROLL = 4  # with 8 and two fetches, LLVM keeps sums of dot products in memory
_MOST_FETCHES = 2
_ASKED = 1 / 8  # of the second-level cache, from which on weights are asked for
_STREAMED = 1.5  # times what the second-level caches hold: going round, little is left of so much
_STREAM_LINES = 16  # in a loop iteration: with more, Zen 5's own prefetching misses some


@dataclass(frozen=True)
class GemmWork:
    """A product of M x K by K x N, where M counts all leading axes of the left side."""

    task: Fused
    dot: Dot  # how the target multiplies and adds

    @property
    def target(self) -> Target:
        """The machine."""
        return self.task.problem.target

    @property
    def product(self) -> Product:
        """The product."""
        return Product(self.task.anchor)

    @property
    def steps(self) -> int:
        """K in words."""
        return self.dot.words(self.product.k)

    @property
    def line(self) -> int:
        """Words of weights in a cache line."""
        return LINE * 8 // self.dot.packing.word.bits

    @property
    def lanes(self) -> int:
        """Sums in a vector."""
        return self.target.lanes(self.product.dtype)

    @cached_property
    def shape(self) -> GemmShape:
        """What the cost depends on."""
        product = self.product
        return GemmShape(
            product.m, product.n, self.steps, self.line, self.dot, self.target, self.lanes
        )

    @property
    def parts(self) -> int:
        """Into how many parts sums may be cut: one for each core."""
        return self.target.cores

    @property
    def may_be_cut(self) -> bool:
        """Whether parts of sums are worth a thought: of floats, whose weights lie far."""
        floats = self.dot == FLOATS or self.dot.apart
        even = self.steps % self.parts == 0 and self.parts > 1
        return floats and even and self.shape.is_worth_parts

    def unroll(self, rows: int, vectors: int, strips: int, parts: int = 1) -> int:
        """Steps per iteration; for weights from afar a few more, so that fewer lines are asked for.

        They divide K, or a part: behind a remainder LLVM would keep sums in memory, not registers.
        """
        wanted = _UNROLL
        if self.dot.apart:
            wanted = _UNROLL_APART
        elif broadcasts_lanes(self.target):
            return self.lanes
        elif strips == 1 and self._is_far:
            wanted = max(1, _STREAM_LINES * self.line // (vectors * self.lanes))
        elif strips > 1 and self._is_asked_for:
            wanted = _FAR_UNROLL
        elif self.shape.is_crowded(GemmKnobs(rows, vectors, 1)):
            wanted = 1  # LLVM would load the next step's weights early, and spill sums
        return max(steps for steps in range(1, wanted + 1) if self.steps // parts % steps == 0)

    @property
    def _is_far(self) -> bool:
        """Whether the weights come from beyond the second-level cache each time."""
        return self._weight_bytes > self.target.cache("l2", 0)

    @property
    def _is_asked_for(self) -> bool:
        """Whether several strips share what is fetched: other layers' weights came in between."""
        return self._weight_bytes > _ASKED * self.target.cache("l2", 0)

    @property
    def _weight_bytes(self) -> int:
        return self.product.node.inputs[1].type.nbytes

    @property
    def _is_streamed(self) -> bool:
        """Whether they do though each core has a second-level cache of its own."""
        target = self.target
        return self._weight_bytes > _STREAMED * target.cores * target.cache("l2", 1 << 18)

    def streams(self, knobs: GemmKnobs) -> int:
        """Cache lines of this panel to ask for in each block of steps, some way ahead.

        A single strip goes through its weights once. The hardware sees that by itself, but how well
        depends on where loop and weights happen to lie: 180 to 228 GB/s for the same loop from the
        third-level cache of a Zen 5, where plain reading takes 230. Asking makes it 220 to 228.
        """
        if self.shape.strips(knobs) > 1 or not self._is_streamed:
            return 0
        if knobs.apart:
            return 0  # rows are several, and multiply-adds take longer than any cache
        steps = self.shape.block(knobs.rows * knobs.vectors, knobs.unroll)
        return max(1, steps * knobs.vectors * self.lanes // self.line)

    def sections(self, knobs: GemmKnobs) -> int:
        """Equal runs of columns whose panels take turns.

        Three times as many columns as K are the queries, keys and values of one width: those of a
        head are then one core's, which attention finds there when it shares out heads. Weights that
        stream from afar are better read in order: GPT-2 took 2 to 4 % longer by turns.
        """
        product, width = self.product, knobs.vectors * self.lanes
        merged = product.n == 3 * product.k and product.n % (3 * width) == 0
        shared = self.target.cores > 1 and knobs.blocks == 1 and product.m > 1
        return 3 if merged and shared and not self._is_streamed else 1

    def fetches(self, knobs: GemmKnobs) -> int:
        """Cache lines of the next panel to ask for in each block of steps.

        A panel is read from memory for its first strip of rows and from the second-level cache for
        the others: without asking ahead, memory rests while these run.
        """
        strips = -(-self.shape.strips(knobs) // knobs.blocks)
        blocks = self.blocks(knobs)
        if strips < 2 or not self._is_asked_for or not blocks:
            return 0
        if knobs.apart and knobs.parts > 1:
            return 0  # a part's weights lie in pieces
        lines = self.steps // knobs.parts * knobs.vectors * self.lanes / self.line
        each = math.ceil(lines / (strips * blocks))
        return each if knobs.apart else min(_MOST_FETCHES, each)

    def blocks(self, knobs: GemmKnobs) -> int:
        """Blocks of steps in a full tile, or passes."""
        if knobs.apart:
            return self.shape.passes(knobs, knobs.vectors)
        return self.steps // knobs.parts // knobs.unroll
