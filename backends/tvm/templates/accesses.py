"""How a computation walks through memory: strides of its loads, found from its indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import sym, tirx
from tvm.ir import Call, Expr, TensorLoad, Var

from optc.backends.tvm.templates.loops import Code, as_index


@dataclass(frozen=True, eq=False)
class Axis:
    """A loop: 0 <= var < extent."""

    var: Var
    extent: int


@dataclass(frozen=True)
class Access:
    """A load; `strides` in elements per axis, None where the place is no linear function of it."""

    strides: tuple[int | None, ...]
    bytes: int


@dataclass(frozen=True)
class Condition:
    """A comparison that guards a load: sum(steps * axes) + offset against 0.

    None where an axis enters in another way than linearly.
    """

    steps: tuple[int | None, ...]
    offset: int | None

    def cuts(self, axis: int) -> tuple[int, ...] | None:
        """Where the answer may change along `axis`, or None when that depends on other axes."""
        step = self.steps[axis]
        if step == 0:
            return ()
        if step is None or self.offset is None or any(s != 0 for s in _without(self.steps, axis)):
            return None
        # Equal, less and less-or-equal change between floor and ceiling of the root and beside it.
        root = -self.offset // step
        return (root, root + 1, root + 2) if self.offset % step else (root, root + 1)


def _without(items: Sequence[int | None], place: int) -> list[int | None]:
    return [item for n, item in enumerate(items) if n != place]


@dataclass(frozen=True)
class Walk:
    """What one point of an iteration space reads and does.

    `fixed` are the axes that also occur outside linear indices: those cannot be merged. `splits`
    has the axes that are divided by a constant: as two loops they are linear.
    """

    accesses: tuple[Access, ...]
    operations: int
    fixed: frozenset[int]
    splits: Mapping[int, int]
    conditions: tuple[Condition, ...]


def axes_of(extents: Sequence[int], name: str = "i") -> list[Axis]:
    """Fresh axes."""
    return [Axis(Var(f"{name}{n}", "int32"), extent) for n, extent in enumerate(extents)]


def walk(axes: Sequence[Axis], point: Callable[[Code], Expr | Sequence[Expr]]) -> Walk:
    """Analyse what `point` writes for the axes' variables; nothing of it is kept."""
    code = Code()
    result = point(code)
    for value in result if isinstance(result, list | tuple) else [result]:
        code.add(tirx.Evaluate(value))
    return _Walker(axes).walk(code.statement())


class _Walker:
    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = axes
        self.places = {axis.var: n for n, axis in enumerate(axes)}
        self.analyzer = sym.Analyzer()
        for axis in axes:
            self.analyzer.bind(axis.var, tvm.ir.Range(0, axis.extent))
        self.accesses: list[Access] = []
        self.operations = 0
        self.fixed: set[int] = set()
        self.splits: dict[int, int] = {}
        self.local: dict[Var, Expr] = {}
        self.conditions: list[Condition] = []

    def walk(self, statement: tirx.Stmt) -> Walk:
        def bind(item: tirx.Bind, visitor: tvm_ffi.StructuralVisitor) -> None:
            if item.value.ty.dtype in ("int32", "int64"):
                self.local[item.var] = item.value
            visitor.visit(item.value)

        def load(item: TensorLoad, visitor: tvm_ffi.StructuralVisitor) -> None:
            self._load(item)

        def variable(item: Var, _: tvm_ffi.StructuralVisitor) -> None:
            self._mark(item)

        def operation(item: Expr, visitor: tvm_ffi.StructuralVisitor) -> None:
            self.operations += 1
            if isinstance(item, Call) and item.op.name == "prim.if_then_else":
                self._condition(self._open(item.args[0]))
            visitor.default_visit(item)

        tvm_ffi.structural_visit(
            statement,
            [(tirx.Bind, bind), (TensorLoad, load), (Var, variable), (_OPERATIONS, operation)],
        )
        return Walk(
            tuple(self.accesses),
            self.operations,
            frozenset(self.fixed),
            self.splits,
            tuple(self.conditions),
        )

    def _mark(self, variable: Var) -> None:
        if variable in self.places:
            self.fixed.add(self.places[variable])
        elif variable in self.local:
            self._mark_all(self.local[variable])

    def _mark_all(self, value: Expr) -> None:
        tvm_ffi.structural_walk(value, (Var, self._mark))
        tvm_ffi.structural_walk(value, (TensorLoad, self._load))

    def _load(self, item: TensorLoad) -> None:
        place: Expr = as_index(0)
        for index, extent in zip(item.indices, item.source.shape, strict=True):
            place = place * extent + index
        opened = self._open(place)
        self._find_splits(opened)
        place = self.analyzer.simplify(opened)
        strides = tuple(self._stride(place, axis) for axis in self.axes)
        self.fixed |= {n for n, stride in enumerate(strides) if stride is None}
        width = -(-tvm.DataType(item.ty.dtype).bits // 8)
        self.accesses.append(Access(strides, width))
        for index in item.indices:  # a gather reads its indices
            tvm_ffi.structural_walk(self._open(index), (TensorLoad, self._load))

    def _condition(self, condition: Expr) -> None:
        def comparison(item: tirx.LT) -> None:
            difference = self.analyzer.simplify(item.a - item.b)
            steps = tuple(self._stride(difference, axis) for axis in self.axes)
            zeros = {axis.var: as_index(0) for axis in self.axes}

            def variable(item: Var) -> Expr:
                return zeros.get(item, item)

            rest = self.analyzer.simplify(tvm_ffi.structural_map(difference, (Var, variable)))
            offset = int(rest) if isinstance(rest, tirx.IntImm) else None
            self.conditions.append(Condition(steps, offset))

        tvm_ffi.structural_walk(condition, (_COMPARISONS, comparison))

    def _stride(self, place: Expr, axis: Axis) -> int | None:
        def variable(item: Var) -> Expr:
            return item + 1 if item.same_as(axis.var) else item

        step = self.analyzer.simplify(tvm_ffi.structural_map(place, (Var, variable)) - place)
        return int(step) if isinstance(step, tirx.IntImm) else None

    def _find_splits(self, place: Expr) -> None:
        def division(item: tirx.FloorDiv) -> None:
            if isinstance(item.a, Var) and item.a in self.places:
                axis, by = self.places[item.a], item.b
                extent = self.axes[axis].extent
                if isinstance(by, tirx.IntImm) and 1 < int(by) < extent and not extent % int(by):
                    self.splits.setdefault(axis, int(by))

        tvm_ffi.structural_walk(place, ((tirx.FloorDiv, tirx.FloorMod), division))

    def _open(self, place: Expr) -> Expr:
        """Replace names of index expressions by what they stand for."""

        def variable(item: Var, mutator: tvm_ffi.StructuralMutator) -> Expr:
            return mutator.mutate(self.local[item]) if item in self.local else item

        return tvm_ffi.structural_mutate(place, (Var, variable))


_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)
_OPERATIONS = (
    tirx.Add,
    tirx.Sub,
    tirx.Mul,
    tirx.Div,
    tirx.Max,
    tirx.Min,
    tirx.Select,
    *_COMPARISONS,
    Call,
)
