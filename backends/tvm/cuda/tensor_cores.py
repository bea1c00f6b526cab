"""Which contractions tensor cores take, and how each factor comes into shared memory.

Both factors must hold f16, bf16 or bytes: as they lie in memory, or as the graph rounds them. Where
neighbours along the folded axes, or along a factor's own, are neighbours in memory, vectors are
copied; everything else (padding's edges, what is fused before a product, odd extents) is computed
element by element. Folded axes are taken in the order that allows the most vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import sym, te, tirx
from tvm.ir import Call, Expr, TensorLoad, Var

from optc.backends.tvm.cuda.contraction import Contraction, Factor, variables_of
from optc.backends.tvm.cuda.task import Task
from optc.backends.tvm.cuda.tensor_tiles import MatrixTile, Problem, choose
from optc.backends.tvm.dtypes import width_of
from optc.backends.tvm.templates.accesses import Access, Axis, axes_of, walk
from optc.backends.tvm.templates.elements import key_of
from optc.backends.tvm.templates.loops import as_index
from optc.backends.tvm.templates.plan import Miss
from optc.ir.targets.target import Target

_VECTORS = (16, 8, 4)  # bytes that one asynchronous copy moves
_BYTES = ("int8", "uint8")
_LOAD = "te.tensor_load"


@dataclass(frozen=True)
class Layout:
    """How a factor comes into shared memory: `vector` elements at a time, 1 if computed.

    `along_depth` says whether neighbours in memory follow the folded axes; `turned` is a slice that
    lies in shared memory as it does in memory, folded axis outside, and is turned when it is read.
    """

    vector: int
    along_depth: bool
    turned: bool
    guarded: bool = False  # has edges of its own: dear to compute


@dataclass(frozen=True, eq=False)
class TensorPlan:
    """A contraction on tensor cores; `order` lists the folded axes from the outermost on."""

    contraction: Contraction
    dtypes: tuple[str, str]  # of the factors
    sums: str  # dtype of the sums
    order: tuple[int, ...]
    layouts: tuple[Layout, Layout]
    tile: MatrixTile
    splits: int  # parts of the folded axes that blocks of their own sum

    @property
    def product(self) -> str:
        """The device function of one product of fragments."""
        if self.sums == "float32":
            return f"optc_product_{'f16' if self.dtypes[0] == 'float16' else 'bf16'}"
        left, right = ("s8" if dtype == "int8" else "u8" for dtype in self.dtypes)
        return f"optc_product_{left}{right}"


def plan_of(contraction: Contraction, target: Target) -> TensorPlan | Miss:
    """How tensor cores of `target` compute it, or why they do not."""
    step = contraction.step
    factors = (contraction.left, contraction.right)
    dtypes = [narrow_of(factor.value, step.task) for factor in factors]
    (sums,) = step.reducer.dtypes
    if None in dtypes:
        return Miss(f"a factor is {sums}: tensor cores take f16, bf16 and bytes")
    kind = "int32" if all(dtype in _BYTES for dtype in dtypes) else "float32"
    if kind != sums or (kind == "float32" and dtypes[0] != dtypes[1]):
        return Miss(f"tensor cores do not multiply {dtypes[0]} and {dtypes[1]} to {sums}")
    architecture = int(target.cpu.removeprefix("sm_"))
    if architecture < 80 and dtypes[0] == "bfloat16":
        return Miss("tensor cores take bf16 from compute capability 8.0 on")
    dtype_pair = (str(dtypes[0]), str(dtypes[1]))
    order, layouts = _layouts(contraction, dtype_pair)
    problem = Problem(
        batch=contraction.size(contraction.batch),
        rows=contraction.size(contraction.left.axes),
        columns=contraction.size(contraction.right.axes),
        depth=math.prod(step.reduced),
        width=width_of(dtype_pair[0]),
        computed=(layouts[0].vector == 1, layouts[1].vector == 1),
    )
    tile, splits = choose(problem, target)
    return TensorPlan(contraction, dtype_pair, sums, order, layouts, tile, splits)


def narrow_of(value: Expr, task: Task) -> str | None:
    """The f16, bf16 or byte dtype whose numbers a wide expression has; None for others."""
    value = _bare(value)
    if isinstance(value, tirx.Cast):
        inner = str(value.value.ty.dtype)
        wide = {"float16": "float32", **dict.fromkeys(_BYTES, "int32")}.get(inner)
        return inner if wide == value.ty.dtype else None
    if not isinstance(value, Call):
        return None
    if value.op.name == "prim.if_then_else":
        _, inner_value, zero = value.args
        return narrow_of(inner_value, task) if _is_zero(zero) else None
    if value.op.name == "tirx.reinterpret" and value.ty.dtype == "float32":
        return "bfloat16" if _widened_from(value) is not None else None
    if value.op.name != _LOAD:
        return None
    tensor = value.args[0]
    if key_of(tensor) in task.rounded:
        return task.rounded[key_of(tensor)]
    op = tensor.op
    if isinstance(op, te.ComputeOp) and not op.reduce_axis and key_of(tensor) not in task.sources:
        return narrow_of(op.body[tensor.value_index], task)
    return None


def narrowed(value: Expr, dtype: str) -> Expr:
    """The expression in the narrow dtype that `narrow_of` found; exact where it was one already."""
    value = _bare(value)
    if isinstance(value, tirx.Cast) and value.value.ty.dtype == dtype:
        return value.value
    if isinstance(value, Call) and value.op.name == "prim.if_then_else":
        condition, inner, _ = value.args
        if dtype != "bfloat16":  # TVM loses the type of its literals
            return tirx.if_then_else(condition, narrowed(inner, dtype), tirx.const(0, dtype))
    if dtype == "bfloat16" and (source := _widened_from(value)) is not None:
        return source
    return tirx.Cast(dtype, value)


def _bare(value: Expr) -> Expr:
    """Without casts from a dtype to itself."""
    while isinstance(value, tirx.Cast) and value.value.ty.dtype == value.ty.dtype:
        value = value.value
    return value


def _widened_from(value: Expr) -> Expr | None:
    """The bf16 that `element.cast` made f32 of, bit by bit."""
    if not (isinstance(value, Call) and value.op.name == "tirx.reinterpret"):
        return None
    shifted = value.args[0]
    if not (isinstance(shifted, tirx.LShift) and isinstance(shifted.a, tirx.Cast)):
        return None
    raw = shifted.a.value
    if not (isinstance(raw, Call) and raw.op.name == "tirx.reinterpret"):
        return None
    source = raw.args[0]
    return source if source.ty.dtype == "bfloat16" else None


def guarded_load(value: Expr, dtype: str) -> tuple[list[Expr], TensorLoad] | None:
    """The load that a factor's element is, and the conditions outside of which it is zero."""
    conditions: list[Expr] = []
    while True:
        value = narrowed(value, dtype) if isinstance(value, tirx.Cast) else value
        if not (isinstance(value, Call) and value.op.name == "prim.if_then_else"):
            break
        condition, value, zero = value.args
        if not _is_zero(zero) or _reads(condition):
            return None
        conditions.append(condition)
    source = value if value.ty.dtype == dtype else narrowed(value, dtype)
    if not isinstance(source, TensorLoad) or any(map(_reads, source.indices)):
        return None
    return conditions, source


def flat_index(load: TensorLoad) -> Expr:
    """The place of a load in its dense buffer."""
    place: Expr = as_index(0)
    for index, extent in zip(load.indices, load.source.shape, strict=True):
        place = place * extent + index
    return place


def _is_zero(value: Expr) -> bool:
    return isinstance(value, tirx.FloatImm | tirx.IntImm) and value.value == 0


def _reads(value: Expr) -> bool:
    def load(_: TensorLoad) -> tvm_ffi.VisitInterrupt:
        return tvm_ffi.VisitInterrupt(True)

    return tvm_ffi.structural_walk(value, (TensorLoad, load)) is not None


def _layouts(
    contraction: Contraction, dtypes: tuple[str, str]
) -> tuple[tuple[int, ...], tuple[Layout, Layout]]:
    """The order of the folded axes, and the layouts that it allows."""
    rank = len(contraction.step.reduced)
    orders = [tuple(range(rank))]
    orders += [(*(n for n in range(rank) if n != last), last) for last in range(rank - 1)]
    found = []
    for order in orders:
        left, right = (
            _layout(contraction, factor, dtype, order)
            for factor, dtype in zip((contraction.left, contraction.right), dtypes, strict=True)
        )
        found.append((order, (left, right)))
    # Ties go to the first: the order that the op has.
    return max(found, key=lambda item: sum(x.vector * (1 + x.guarded) for x in item[1]))


def _layout(contraction: Contraction, factor: Factor, dtype: str, order: Sequence[int]) -> Layout:
    """How a factor is read if the folded axes follow each other in `order`."""
    step = contraction.step
    axes, inner = axes_of(step.extents, "p"), axes_of(step.reduced, "k")
    value = step.source(None, factor.value, [a.var for a in axes], [a.var for a in inner])
    depth = [inner[n] for n in order if inner[n].extent > 1]
    own = [axes[n] for n in factor.axes]
    return layout_of(value, dtype, own, depth, [*axes, *inner])


def layout_of(
    value: Expr,
    dtype: str,
    own: Sequence[Axis],
    depth: Sequence[Axis],
    axes: Sequence[Axis],
    turns: bool = True,
) -> Layout:
    """How to read `value` of `axes` along `own`, a factor's, and `depth`, those that are folded.

    Slices lie along the depth unless `turns` allows 16-bit elements to lie across it.
    """
    width = width_of(dtype)
    loads = walk([*own, *depth], lambda _: value).accesses
    along_depth = _ones(loads, -1) > _ones(loads, len(own) - 1)
    turned = turns and width == 2 and not along_depth
    computed = Layout(1, along_depth or width == 1, turned)
    parts = guarded_load(value, dtype)
    if parts is None or len(loads) != 1 or parts[1].source.dtype != dtype:
        return computed
    strides = loads[0].strides
    ways = [(depth, strides[len(own) :], True), (own, strides[: len(own)], False)]
    for walked, steps, is_depth in ways[: 2 if turns and width == 2 else 1]:
        vector = _vector(parts, width, _run(walked, steps), axes)
        if vector > 1:
            return Layout(vector, is_depth, not is_depth, bool(parts[0]))
    return computed


def _vector(
    parts: tuple[list[Expr], TensorLoad], width: int, run: Sequence[Axis], axes: Sequence[Axis]
) -> int:
    """Elements that can be copied at once along some of the axes of a run, the last ones."""
    for nbytes in _VECTORS:
        vector = nbytes // width
        for taken in range(len(run), 0, -1):
            whole = math.prod(axis.extent for axis in run[:taken]) % vector == 0
            if vector > 1 and whole and _aligned(*parts, run[:taken], vector, axes):
                return vector
    return 1


def _ones(loads: Sequence[Access], axis: int) -> int:
    return sum(load.strides[axis] == 1 for load in loads)


def _run(axes: Sequence[Axis], strides: Sequence[int | None]) -> list[Axis]:
    """The last axes, along which elements follow each other in memory."""
    run: list[Axis] = []
    length = 1
    for axis, stride in zip(reversed(axes), reversed(strides), strict=True):
        if stride != length:
            break
        run.append(axis)
        length *= axis.extent
    return run


def _aligned(
    conditions: Sequence[Expr],
    load: TensorLoad,
    run: Sequence[Axis],
    vector: int,
    axes: Sequence[Axis],
) -> bool:
    """Whether vectors along a run begin at multiples of `vector`, and are in or out as a whole."""
    walked = {axis.var for axis in run}
    if any(walked & variables_of(condition) for condition in conditions):
        return False
    analyzer = sym.Analyzer()
    for axis in axes:
        analyzer.bind(axis.var, tvm.ir.Range(0, axis.extent))

    def variable(item: Var) -> Expr:
        return as_index(0) if item in walked else item

    begins = analyzer.modular_set(tvm_ffi.structural_map(flat_index(load), (Var, variable)))
    return int(begins.coeff) % vector == 0 and int(begins.base) % vector == 0
