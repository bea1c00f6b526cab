"""Which tile a tensor-core product takes, by a model of the GPU: no measurement, no shapes by hand.

Cycles of one multiprocessor: a slice of a block takes as long as the slowest of its products, its
reads of shared memory and its loads, and no less than memory's latency divided among the slices
that are under way (Little's law; Volkov 2010). Where blocks do not fill the multiprocessors the
folded axes are split: parts are summed by a second launch, in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from optc.backends.tvm.cuda.grid import WARP, ceil_div
from optc.ir.targets.target import Target

STEP = 32  # bytes along the folded axis that one product of fragments takes
_DEPTH = 64  # bytes of a slice
PAD = 16  # bytes behind a row of a slice: eight rows then start in eight different banks of four
_STATIC = 48 * 1024  # bytes of shared memory that a kernel may name without asking
_MOST_STAGES = 4
# 16-bit multiply-adds per cycle and multiprocessor (architecture whitepapers of NVIDIA)
_RATES = {75: 512, 80: 1024, 86: 512, 89: 512, 90: 1024}
_FROM_L2 = 40.0  # bytes per cycle and multiprocessor
_FROM_SHARED = 128.0
_LATENCY = 600.0  # cycles from a load of device memory to its use
_LAUNCH = 4000.0  # cycles that another launch costs
_PER_COMPUTED = 8.0  # instructions of an element that is not copied in vectors
_REGISTERS, _MOST_THREADS = 65536, 1024
_MOST_HELD = 32  # elements a thread keeps between their load and their store
_OTHER_REGISTERS = 48  # of a thread: addresses and indices


@dataclass(frozen=True)
class MatrixTile:
    """Rows and columns of a block and of a warp; bytes of a slice's depth; slices in flight."""

    m: int
    n: int
    rows: int
    columns: int
    depth: int = _DEPTH
    stages: int = 2

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.m // self.rows * (self.n // self.columns)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return WARP * self.warps

    @property
    def slice_bytes(self) -> int:
        """Shared memory of one stage, for either layout of its factors."""
        return sum(
            max(side * (self.depth + PAD), self.depth * (side + PAD // 2))
            for side in (self.m, self.n)
        )

    @property
    def registers(self) -> int:
        """Of a thread, estimated."""
        fragments = self.rows // 16 * 4 + self.columns // 8 * 2
        return min(255, self.rows * self.columns // WARP + fragments + _OTHER_REGISTERS)


@dataclass(frozen=True)
class Problem:
    """A product to cut into tiles; `computed` factors are not copied in vectors."""

    batch: int
    rows: int
    columns: int
    depth: int
    width: int  # bytes of an element
    computed: tuple[bool, bool] = (False, False)


def _staged(m: int, n: int, rows: int, columns: int) -> MatrixTile:
    bare = MatrixTile(m, n, rows, columns)
    stages = min(_MOST_STAGES, _STATIC // bare.slice_bytes)
    return MatrixTile(m, n, rows, columns, stages=stages)


TILES = (
    _staged(128, 128, 64, 64),
    _staged(128, 64, 64, 32),
    _staged(64, 128, 32, 64),
    _staged(64, 64, 32, 32),
    _staged(32, 128, 32, 32),
    _staged(128, 32, 32, 32),
    _staged(32, 64, 16, 32),
    _staged(64, 32, 32, 16),
    _staged(32, 32, 16, 16),
    _staged(16, 128, 16, 32),
    _staged(16, 64, 16, 16),
    _staged(64, 16, 16, 16),
)


def choose(problem: Problem, target: Target) -> tuple[MatrixTile, int]:
    """The tile and the parts of the folded axes that the model calls fastest."""
    tiles = [tile for tile in TILES if _is_held(problem, tile)]
    options = ((tile, splits) for tile in tiles for splits in _splits(problem, tile, target.cores))
    return min(options, key=lambda option: cycles(problem, option[0], option[1], target))


def _is_held(problem: Problem, tile: MatrixTile) -> bool:
    """Whether elements that wait for their place in shared memory fit into registers."""
    sides = zip(problem.computed, (tile.m, tile.n), strict=True)
    elements = tile.depth // problem.width
    return all(not held or side * elements <= _MOST_HELD * tile.threads for held, side in sides)


def _splits(problem: Problem, tile: MatrixTile, processors: int) -> Iterator[int]:
    yield 1
    slices = slices_of(problem, tile)
    blocks = problem.batch * ceil_div(problem.rows, tile.m) * ceil_div(problem.columns, tile.n)
    splits = 2
    while blocks * splits <= 4 * processors and slices >= 4 * splits:
        yield splits
        splits *= 2


def slices_of(problem: Problem, tile: MatrixTile) -> int:
    """Slices along the folded axes."""
    return ceil_div(problem.depth * problem.width, tile.depth)


def cycles(problem: Problem, tile: MatrixTile, splits: int, target: Target) -> float:
    """Estimated cycles of all launches."""
    blocks = problem.batch * ceil_div(problem.rows, tile.m) * ceil_div(problem.columns, tile.n)
    turns = ceil_div(blocks * splits, target.cores)
    slices = ceil_div(slices_of(problem, tile), splits)
    shared = target.cache("shared", 64 * 1024)
    resident = min(
        shared // (tile.slice_bytes * tile.stages),
        _REGISTERS // (tile.threads * tile.registers),
        _MOST_THREADS // tile.threads,
        turns,
    )
    rate = _RATES.get(int(target.cpu.removeprefix("sm_")), 512)
    side = tile.m + tile.n
    work = max(
        tile.m * tile.n * tile.depth / 2 / rate,
        tile.warps * (tile.rows + tile.columns) * tile.depth / _FROM_SHARED,
        side * tile.depth / _FROM_L2,
    )
    elements = side * tile.depth / problem.width / 2
    work += sum(problem.computed) * elements * _PER_COMPUTED / 128
    waiting = _LATENCY / (tile.stages - 1)
    rounds = ceil_div(turns, max(1, resident))
    time = slices * max(turns * work, rounds * waiting) + rounds * _LATENCY
    time += turns * tile.m * tile.n * 4 / _FROM_L2  # the epilogue
    if splits > 1:
        results = problem.batch * problem.rows * problem.columns
        time += _LAUNCH + 2 * splits * results * 4 / (target.cores * _FROM_L2 / 2)
    return time
