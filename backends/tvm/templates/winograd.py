"""Convolutions of 3x3 windows by Winograd's minimal filtering: fewer products, more additions.

F(4x4, 3x3) takes 36 products for 16 results of a pair of channels where the direct way takes 144,
F(2x2, 3x3) 16 for 4 instead of 36 (Lavin and Gray, CVPR 2016). `minimal` has the matrices and what
they cost in accuracy, `winograd_loops` the loops, `winograd_cost` when it pays.

The direct convolution stays a candidate: the plan offers both, ordered by their estimates, so that
a tuner measures one against the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from tvm.ir import Expr

from optc.backends.tvm.templates.apart import SUMS
from optc.backends.tvm.templates.conv import Convolution, ConvPlan, may_alias
from optc.backends.tvm.templates.conv_knobs import ConvKnobs
from optc.backends.tvm.templates.fused import FusedEmitter
from optc.backends.tvm.templates.geometry import Geometry
from optc.backends.tvm.templates.image import ImageReader, channels_at_end
from optc.backends.tvm.templates.loops import FORK_CYCLES, Code
from optc.backends.tvm.templates.minimal import SIZES, TAPS, matrix, minimal
from optc.backends.tvm.templates.places import Coordinate, plain
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.products_apart import in_two, most_rows, pass_cycles
from optc.backends.tvm.templates.tile import (
    FLOATS,
    broadcasts_lanes,
    register_rows,
    tile_cycles,
)
from optc.backends.tvm.templates.winograd_cost import direct_cycles, winograd_cycles
from optc.backends.tvm.templates.winograd_knobs import Share, WinogradKnobs
from optc.backends.tvm.templates.winograd_loops import Operands, WinogradLoops
from optc.backends.tvm.templates.winograd_tiling import Tiling
from optc.ir.dtype import DType
from optc.ir.graph import Node
from optc.ir.ops import Conv
from optc.ir.targets.target import Target
from optc.ir.types import TensorType

_MOST_VECTORS = 4
_ROWS = 3  # heights of register tiles that are considered for each width
_OFFERED, _ALIKE, _DIRECT = 12, 3, 3  # settings: in all, of one kind, and of the direct way
_GAIN = 0.9  # of the direct way's time, from which rounding differently is worth it
_SIZE = 0.04  # of the direct way's time: what weights that are larger by the direct way's cost
_RIVAL = 1.3  # beyond it there is nothing to measure


@dataclass(frozen=True, slots=True)
class WinogradPack:
    """[O, I, 3, 3] weights as G w G', in panels [point][I][width] of output channels.

    Computed in f64 and rounded once. The last panel is as wide as its channels need in whole
    vectors of `lanes`; what no channel fills is zero. With `columns`, a panel is passed so many
    channels at a time: [point][pass][I / 2][columns][pair of I].
    """

    height: int
    across: int
    width: int
    lanes: int
    columns: int = 0

    def type(self, natural: TensorType) -> TensorType:
        """One axis."""
        outputs, inputs = natural.shape[:2]
        padded = -(-outputs // self.lanes) * self.lanes
        points = minimal(self.height).points * minimal(self.across).points
        return TensorType((points * inputs * padded,), natural.dtype)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The panels, flat."""
        down, along = (matrix(minimal(size).filter) for size in (self.height, self.across))
        outputs, inputs = array.shape[:2]
        spread = np.einsum("pk,oikl->poil", down, array.astype(np.float64))
        spread = np.einsum("poil,ql->pqio", spread, along, optimize=True)
        padded = -(-outputs // self.lanes) * self.lanes
        filled = np.zeros((spread.shape[0] * spread.shape[1], inputs, padded), array.dtype)
        filled[..., :outputs] = spread.reshape(-1, inputs, outputs)
        cuts = range(self.width, padded, self.width)
        panels = np.split(filled, cuts, axis=-1)
        return np.concatenate([self._in_pairs(panel).ravel() for panel in panels])

    def _in_pairs(self, panel: np.ndarray) -> np.ndarray:
        if not self.columns:
            return panel
        points, inputs, width = panel.shape
        pairs = panel.reshape(points, inputs // SUMS, SUMS, width // self.columns, self.columns)
        return pairs.transpose(0, 3, 1, 4, 2)


@dataclass(frozen=True)
class Winograd:
    """Template of convolutions that may be worth it, by estimate."""

    name: str = "winograd"
    version: int = 2

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes what `conv` takes, if it is f32, 3x3 without steps, and not clearly slower."""
        direct = Convolution().match(problem)
        if isinstance(direct, Miss):
            return direct
        assert isinstance(direct, ConvPlan)
        op, (x, weight) = direct.node.op, direct.node.inputs[:2]
        if not isinstance(op, Conv) or weight.shape[2:] != (TAPS, TAPS):
            return Miss("it is for windows of 3x3")
        if op.stride != (1, 1) or op.dilation != (1, 1) or op.groups != 1:
            return Miss("the window moves in steps, or is dilated, or has groups")
        if x.type.dtype is not DType.F32 or weight.type.dtype is not DType.F32:
            return Miss(f"it rounds too much for {x.type.dtype}")
        if not op.channels_last:
            return Miss("channels come first")
        if not problem.target.winograd:
            return Miss("the target asks for direct convolutions")
        plan = WinogradPlan(direct, f"{self.name}/{self.version}")
        ratio = plan.cycles(plan.settings[0]) / plan.direct_cycles
        if ratio > _RIVAL:
            return Miss(f"by estimate it takes {ratio:.2f} of the direct way's time")
        return plan


@dataclass(frozen=True)
class WinogradPlan:
    """A convolution that has two ways to be computed."""

    direct: ConvPlan
    template: str

    @property
    def node(self) -> Node:
        """The convolution."""
        return self.direct.node

    @property
    def target(self) -> Target:
        """The machine."""
        return self.direct.target

    @property
    def shape(self) -> Geometry:
        """The loop bounds."""
        return self.direct.shape

    @property
    def apart(self) -> tuple[int, ...]:
        """What products with two sums for each result may take together; 0: those with one."""
        offered = in_two(self.target, FLOATS) is not None and self.shape.inputs % SUMS == 0
        return (0, 1, 2) if offered else (0,)

    @cached_property
    def direct_cycles(self) -> float:
        """Estimated cycles of the direct way at its best."""
        knobs = self.direct.candidates()[0]
        assert isinstance(knobs, ConvKnobs)
        return direct_cycles(self.direct, knobs)

    def cycles(self, knobs: WinogradKnobs) -> float:
        """Estimated cycles of the slowest thread."""
        return winograd_cycles(Tiling(self.shape, knobs), self.target, self.direct.lanes)

    def price(self, knobs: WinogradKnobs) -> float:
        """Cycles as a share of the direct way's, and what larger weights cost.

        Tiles of 4x4 lay weights out four times as large, those of 2x2 not twice: where one is
        hardly faster than the other, an artifact of half the size is worth more.
        """
        natural = self.node.inputs[1].type
        pack = WinogradPack(knobs.height, knobs.width, knobs.vectors, self.direct.lanes)
        growth = pack.type(natural).nbytes / max(natural.nbytes, 1) - 1
        return self.cycles(knobs) / self.direct_cycles + _SIZE * growth

    @cached_property
    def settings(self) -> Sequence[WinogradKnobs]:
        """Those of Winograd's way, the cheapest first."""
        most = min(_MOST_VECTORS, -(-self.shape.outputs // self.direct.lanes))
        # Tiles of one vector load as much as they multiply.
        vectors = range(min(2, most), most + 1)
        found = [
            knobs
            for height in SIZES
            for width in SIZES
            for count in vectors
            for apart in self.apart
            for knobs in self._blocks(
                WinogradKnobs(height, width, 1, 1, count, 1, Share.TILES, apart)
            )
        ]
        return sorted(dict.fromkeys(found), key=self.price)

    def _blocks(self, knobs: WinogradKnobs) -> Iterator[WinogradKnobs]:
        """Register tiles and blocks of them, of at most all tiles."""
        tiles = Tiling(self.shape, knobs).tiles
        most = min(tiles, self._most_rows(knobs))

        def wasted(rows: int) -> float:
            strips, inputs = -(-tiles // rows), self.shape.inputs
            if knobs.apart:
                return strips * pass_cycles(rows, knobs.apart, inputs / SUMS)
            return strips * tile_cycles(rows, knobs.vectors, inputs)

        for rows in sorted(range(-(-most // 2), most + 1), key=wasted)[:_ROWS]:
            strips = -(-tiles // rows)
            unroll = self._unroll(rows, knobs)
            for count in {min(strips, n) for n in (1, 2, 3, 4, -(-strips // self.target.cores))}:
                for share in Share:
                    yield replace(knobs, rows=rows, strips=count, unroll=unroll, share=share)
            yield replace(knobs, rows=rows, strips=strips, unroll=unroll, share=Share.CHANNELS)

    def _most_rows(self, knobs: WinogradKnobs) -> int:
        """Of a register tile.

        Where rows' elements take registers, LLVM's plainer models of ARM cores start loads of the
        next step early and want two to spare, or they spill sums.
        """
        vectors = knobs.vectors
        if knobs.apart:
            return most_rows(self.target, knobs.apart)
        rows = register_rows(self.target, vectors)
        spare = self.target.vector_registers - rows * (vectors + 1) - vectors
        return rows - 1 if broadcasts_lanes(self.target) and spare < 2 and rows > 1 else rows

    def _unroll(self, rows: int, knobs: WinogradKnobs) -> int:
        """Steps per iteration. They divide the depth: see `gemm`."""
        if knobs.apart:
            return max(n for n in (1, 2, 4) if self.shape.inputs // SUMS % n == 0)
        wanted = max(1, min(8, 48 // (rows * knobs.vectors)))
        if broadcasts_lanes(self.target):
            wanted = self.direct.lanes
        return max(n for n in range(1, wanted + 1) if self.shape.inputs % n == 0)

    def candidates(self) -> Sequence[Knobs]:
        """Settings of both ways by rising estimates, those of one way in their own order."""
        mine, direct = self._distinct(), self.direct.candidates()[:_DIRECT]
        wins = self.price(mine[0]) < _GAIN
        first, second = (mine, direct) if wins else (direct, mine)
        return (*first[:1], *second[:1], *first[1:], *second[1:])

    def _distinct(self) -> Sequence[WinogradKnobs]:
        """The best settings, at most a few of each size of tiles and way to share."""
        kinds: Counter[tuple[int, int, Share]] = Counter()
        found = []
        for knobs in self.settings:
            kind = (knobs.height, knobs.width, knobs.share)
            kinds[kind] += 1
            if kinds[kind] <= _ALIKE:
                found.append(knobs)
        return found[:_OFFERED]

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """Either way."""
        if isinstance(knobs, ConvKnobs):
            return replace(self.direct.emit(symbol, knobs), template=self.direct.template)
        if type(knobs) is not WinogradKnobs:
            raise TypeError(f"winograd does not know {knobs!r}")
        return _Emission(self, knobs).run(symbol)


class _Emission:
    def __init__(self, plan: WinogradPlan, knobs: WinogradKnobs) -> None:
        self.plan, self.knobs, self.node = plan, knobs, plan.node
        self.tiling = Tiling(plan.shape, knobs)
        lanes = plan.direct.lanes
        columns = knobs.apart * lanes // SUMS
        width = knobs.vectors * lanes
        pack = WinogradPack(knobs.height, knobs.width, width, lanes, columns)
        task = plan.direct.task
        place = task.problem.body.inputs.index(self.node.inputs[1])
        self.io: FusedEmitter = task.emitter({place: pack})
        self.weights = self.io.packed(self.node.inputs[1])
        self.code = Code()

    def run(self, symbol: str) -> Emitted:
        plan, x = self.plan, self.node.inputs[0]
        cycles = plan.cycles(self.knobs)
        order = channels_at_end(x.type.rank, plan.shape.channels_last)
        parallel = cycles > FORK_CYCLES
        reader = ImageReader(self.code, self.io, x, "float32", order, plan.direct.lanes, parallel)
        operands = Operands(reader.image(few=0), self.weights, self._finish)
        WinogradLoops(
            self.code, self.tiling, operands, plan.target, plan.direct.lanes, cycles
        ).run()
        return replace(may_alias(self.io.finish(self.code, symbol)), flops=self.tiling.flops)

    def _finish(self, batch: Expr, place: Sequence[Expr], channel: Coordinate, value: Expr) -> None:
        if len(self.node.inputs) > 2:
            (at,) = plain([channel])
            value = value + self.io.read(None, self.node.inputs[2], [at])
        self.io.store(self.code, self.plan.shape.index(batch, tuple(place), channel), value)
