"""The two products of attention, by tensor cores or by threads, and which scores a thread has.

Fragments: a warp has 16 queries; weights leave the accumulators of the first product as the left
fragments of the second (PTX ISA 9.7.14.5.8: both hold the same rows and columns in a lane).
Threads: 16 of them share a row; weights pass through shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.cuda.grid import WARP, Grid
from optc.backends.tvm.cuda.staging import Slices, address, call
from optc.backends.tvm.cuda.tensor_tiles import PAD

_ROWS = 4  # rows of a thread, without fragments
_SHARING = 16  # threads of a row, without fragments
_F32 = "float32"


@dataclass(frozen=True)
class Tiles:
    """Queries and keys of a block, stages of keys and values; columns of queries and of values."""

    rows: int
    keys: int
    stages: int
    depth: int
    width: int
    bytes: int
    fragments: bool

    @property
    def depth_padded(self) -> int:
        """Columns of queries and keys in shared memory."""
        return -(-self.depth // 16) * 16

    @property
    def width_padded(self) -> int:
        """Columns of values in shared memory."""
        return -(-self.width // 16) * 16

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows // 16 * WARP if self.fragments else self.rows // _ROWS * _SHARING

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        deep = self.depth_padded * self.bytes + PAD
        wide = self.width_padded * self.bytes + PAD
        weights = 0 if self.fragments else self.rows * (self.keys * 4 + PAD)
        return self.rows * deep + self.stages * self.keys * (deep + wide) + weights


class Products(Protocol):
    """What a thread has: `rows` x `keys` scores of a tile, `rows` x `columns` results."""

    rows: int
    keys: int
    columns: int
    sharing: tuple[int, ...]  # lanes that share a row differ in these bits

    def prepare(self) -> None:
        """Before the loop: what does not change in it."""
        ...

    def row(self, r: Expr) -> Expr:
        """The block's row that is the thread's `r`-th."""
        ...

    def key(self, c: Expr) -> Expr:
        """The tile's key that is the thread's `c`-th."""
        ...

    def column(self, d: Expr) -> Expr:
        """The column that is the thread's `d`-th."""
        ...

    def score_place(self, r: Expr, c: Expr) -> Expr:
        """Where the thread keeps a score."""
        ...

    def mixed_place(self, r: Expr, d: Expr) -> Expr:
        """Where the thread keeps a result."""
        ...

    def score(self, stage: Expr, scores: Buffer) -> None:
        """Add the products of queries and keys."""
        ...

    def mix(self, stage: Expr, weights: Buffer, mixed: Buffer) -> None:
        """Add the products of weights and values."""
        ...


class FragmentProducts:
    """By tensor cores."""

    sharing: tuple[int, ...] = (1, 2)
    rows: int = 2

    def __init__(self, grid: Grid, tiles: Tiles, q: Slices, k: Slices, v: Slices) -> None:
        self.grid, self.code, self.tiles = grid, grid.code, tiles
        self.q, self.k, self.v = q, k, v
        self.keys, self.columns = tiles.keys // 4, tiles.width_padded // 4
        half = q.dtype == "float16"
        self.product = f"optc_product_{'f16' if half else 'bf16'}"
        self.packed = f"optc_packed<{'half' if half else 'nv_bfloat16'}>"

    def prepare(self) -> None:
        """A lane's place in the matrices that ldmatrix reads, and in accumulators."""
        code, thread = self.code, self.grid.thread
        lane = code.bind(tirx.floormod(thread, WARP), "lane")
        self.warp_row = code.bind(tirx.floordiv(thread, WARP) * 16, "warp_row")
        line = tirx.floormod(lane, 8)
        second = tirx.floormod(tirx.floordiv(lane, 8), 2)
        third = tirx.floordiv(lane, 16)
        self.group = code.bind(tirx.floordiv(lane, 4), "group")
        self.pair = code.bind(tirx.floormod(lane, 4) * 2, "pair")
        query = self.q.place(self.warp_row + line + second * 8, third * 8)
        self.query_base = code.bind(query, "query_base")
        self.key_base = code.bind(self.k.place(line + third * 8, second * 8), "key_base")
        self.value_base = code.bind(self.v.place(line + second * 8, third * 8), "value_base")

    def row(self, r: Expr) -> Expr:
        """A warp's 16 rows, eight of them after the other eight."""
        return self.warp_row + r * 8 + self.group

    def key(self, c: Expr) -> Expr:
        """Pairs of neighbours, eight apart."""
        return tirx.floordiv(c, 2) * 8 + self.pair + tirx.floormod(c, 2)

    def column(self, d: Expr) -> Expr:
        """As keys are."""
        return self.key(d)

    def score_place(self, r: Expr, c: Expr) -> Expr:
        """As accumulators lie."""
        return tirx.floordiv(c, 2) * 4 + r * 2 + tirx.floormod(c, 2)

    def mixed_place(self, r: Expr, d: Expr) -> Expr:
        """As accumulators lie."""
        return self.score_place(r, d)

    def score(self, stage: Expr, scores: Buffer) -> None:
        """Fragments of 16 columns at a time."""
        code = self.code
        with code.unrolled("kk", self.tiles.depth_padded // 16) as kk:
            a = code.scratch("a", (4,), "uint32")
            place = self.query_base + self.q.place(0, kk * 16)
            call(code, "optc_matrices", address(a, _ZERO), address(self.q.shared, place))
            with code.unrolled("j", self.tiles.keys // 16) as j:
                b = code.scratch("b", (4,), "uint32")
                place = stage * self.k.size + self.key_base + self.k.place(j * 16, kk * 16)
                call(code, "optc_matrices", address(b, _ZERO), address(self.k.shared, place))
                self._products(scores, j, a, b)

    def mix(self, stage: Expr, weights: Buffer, mixed: Buffer) -> None:
        """Weights stay where they are, rounded."""
        code = self.code
        with code.unrolled("kk", self.tiles.keys // 16) as kk:
            a = code.scratch("a", (4,), "uint32")
            with code.unrolled("i", 4) as i:
                low = kk * 8 + i * 2
                value = tirx.call_extern("uint32", self.packed, weights[low], weights[low + 1])
                code.store(a, (i,), value)
            with code.unrolled("j", self.tiles.width_padded // 16) as j:
                b = code.scratch("b", (4,), "uint32")
                place = stage * self.v.size + self.value_base + self.v.place(kk * 16, j * 16)
                source = address(self.v.shared, place)
                call(code, "optc_turned_matrices", address(b, _ZERO), source)
                self._products(mixed, j, a, b)

    def _products(self, sums: Buffer, j: Expr, a: Buffer, b: Buffer) -> None:
        """Two products of neighbouring columns."""
        with self.code.unrolled("side", 2) as side:
            target = address(sums, (j * 2 + side) * 4)
            call(self.code, self.product, target, address(a, _ZERO), address(b, side * 2))


class ThreadProducts:
    """By threads, in f32."""

    sharing: tuple[int, ...] = (1, 2, 4, 8)
    rows: int = _ROWS

    def __init__(self, grid: Grid, tiles: Tiles, q: Slices, k: Slices, v: Slices) -> None:
        self.grid, self.code, self.tiles = grid, grid.code, tiles
        self.q, self.k, self.v = q, k, v
        self.keys, self.columns = tiles.keys // _SHARING, tiles.width_padded // _SHARING
        self.pitch = tiles.keys + PAD // 4
        self.weights = grid.shared("weights", (tiles.rows * self.pitch,), _F32)

    def prepare(self) -> None:
        """A thread's first row, and its place among those that share it."""
        thread = self.grid.thread
        self.first = self.code.bind(tirx.floordiv(thread, _SHARING) * _ROWS, "first_row")
        self.mine = self.code.bind(tirx.floormod(thread, _SHARING), "mine")

    def row(self, r: Expr) -> Expr:
        """Rows of a thread follow each other."""
        return self.first + r

    def key(self, c: Expr) -> Expr:
        """Every 16th, so that neighbours read neighbours."""
        return c * _SHARING + self.mine

    def column(self, d: Expr) -> Expr:
        """As keys are."""
        return d * _SHARING + self.mine

    def score_place(self, r: Expr, c: Expr) -> Expr:
        """Row by row."""
        return r * self.keys + c

    def mixed_place(self, r: Expr, d: Expr) -> Expr:
        """Row by row."""
        return r * self.columns + d

    def score(self, stage: Expr, scores: Buffer) -> None:
        """A column at a time, from registers."""
        code = self.code
        with code.loop("k4", -(-self.tiles.depth // 4)) as k4, code.unrolled("kk", 4) as kk:
            a = code.scratch("a", (self.rows,), _F32)
            b = code.scratch("b", (self.keys,), _F32)
            with code.unrolled("r", self.rows) as r:
                code.store(a, (r,), self.q.shared[self.q.place(self.row(r), k4 * 4 + kk)])
            with code.unrolled("c", self.keys) as c:
                place = stage * self.k.size + self.k.place(self.key(c), k4 * 4 + kk)
                code.store(b, (c,), self.k.shared[place])
            with code.unrolled("r", self.rows) as r, code.unrolled("c", self.keys) as c:
                place = self.score_place(r, c)
                code.store(scores, (place,), scores[place] + a[r] * b[c])

    def mix(self, stage: Expr, weights: Buffer, mixed: Buffer) -> None:
        """Weights go to where a whole row is read."""
        code = self.code
        with code.unrolled("r", self.rows) as r, code.unrolled("c", self.keys) as c:
            place = self.row(r) * self.pitch + self.key(c)
            code.store(self.weights, (place,), weights[self.score_place(r, c)])
        self.grid.sync()
        with code.loop("t", self.tiles.keys) as t:
            a = code.scratch("a", (self.rows,), _F32)
            with code.unrolled("r", self.rows) as r:
                code.store(a, (r,), self.weights[self.row(r) * self.pitch + t])
            with code.unrolled("d", self.columns) as d:
                b = code.scratch("b", (1,), _F32)
                place = stage * self.v.size + self.v.place(t, self.column(d))
                code.store(b, (0,), self.v.shared[place])
                with code.unrolled("r", self.rows) as r:
                    place = self.mixed_place(r, d)
                    code.store(mixed, (place,), mixed[place] + a[r] * b[0])


_ZERO = tirx.const(0, "int32")
