"""What a learned cost model sees of a candidate: its knobs, and its loops before they are lowered.

After the features of Ansor (Zheng et al. 2020, appendix B), fewer: our templates write register
tiles by hand, so what tells candidates apart is the innermost loop and how often it runs.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.tirx import ForKind, PrimFunc, Stmt, Var

from optc.backends.tvm.templates.plan import Knobs, Plan

VERSION = 1  # grows when the meaning of a feature changes
_UNLIKELY = 0.5  # share of its executions that a branch is thought to be taken


@dataclass
class _Counts:
    """Vector instructions, executed in all; `passes` of the loop they stand in."""

    passes: float = 1.0
    loads: float = 0.0
    stores: float = 0.0
    products: float = 0.0

    @property
    def work(self) -> float:
        """What makes a loop the hot one."""
        return self.loads + self.stores + self.products


@dataclass
class _Reader:
    """Walks a function with the loops that are open."""

    loops: list[tirx.For] = field(default_factory=list)
    share: float = 1.0
    counts: dict[Var | None, _Counts] = field(default_factory=lambda: defaultdict(_Counts))
    bytes: float = 0.0
    scratch: float = 0.0
    parallel: float = 1.0
    lanes: float = 1.0
    written: float = 0.0  # statements when unrolled loops are written out

    def run(self, body: Stmt) -> None:
        """Count everything below."""
        handlers = [
            (tirx.For, self._loop),
            (tirx.IfThenElse, self._branch),
            (TensorLoad, self._load),
            (tirx.BufferStore, self._store),
            (tirx.Mul, self._product),
            (tirx.AllocBuffer, self._scratch),
        ]
        tvm_ffi.structural_mutate(body, handlers)

    def _times(self, *kinds: ForKind) -> float:
        """How often the place is passed in open loops of these kinds."""
        extents = (loop.extent for loop in self.loops if loop.kind in kinds)
        return math.prod(float(int(e)) for e in extents if isinstance(e, tirx.IntImm))

    @property
    def _executed(self) -> float:
        """Instructions that one instruction here stands for; lanes of a vector are one."""
        return self.share * self._times(ForKind.SERIAL, ForKind.PARALLEL, ForKind.UNROLLED)

    @property
    def _here(self) -> _Counts:
        rolled = [loop for loop in self.loops if loop.kind in (ForKind.SERIAL, ForKind.PARALLEL)]
        counts = self.counts[rolled[-1].loop_var if rolled else None]
        counts.passes = self.share * self._times(ForKind.SERIAL, ForKind.PARALLEL)
        return counts

    def _loop(self, item: tirx.For, mutator: tvm_ffi.StructuralMutator) -> Stmt:
        extent = float(int(item.extent)) if isinstance(item.extent, tirx.IntImm) else 1.0
        if item.kind == ForKind.PARALLEL:
            self.parallel *= extent
        if item.kind == ForKind.VECTORIZED:
            self.lanes = max(self.lanes, extent)
        self.loops.append(item)
        mutator.default_mutate(item)
        self.loops.pop()
        return item

    def _branch(self, item: tirx.IfThenElse, mutator: tvm_ffi.StructuralMutator) -> Stmt:
        self.share *= _UNLIKELY
        mutator.default_mutate(item)
        self.share /= _UNLIKELY
        return item

    def _load(self, item: TensorLoad, mutator: tvm_ffi.StructuralMutator) -> TensorLoad:
        if item.source.scope() == "global":
            self._here.loads += self._executed
            self.bytes += self._executed * self._times(ForKind.VECTORIZED) * _bytes(str(item.ty))
        mutator.default_mutate(item)
        return item

    def _store(self, item: tirx.BufferStore, mutator: tvm_ffi.StructuralMutator) -> Stmt:
        self.written += self._times(ForKind.UNROLLED)
        if item.buffer.scope() == "global":
            self._here.stores += self._executed
        mutator.default_mutate(item)
        return item

    def _product(self, item: tirx.Mul, mutator: tvm_ffi.StructuralMutator) -> tirx.Mul:
        if str(item.ty).startswith(("float", "bfloat")):
            self._here.products += self._executed
        mutator.default_mutate(item)
        return item

    def _scratch(self, item: tirx.AllocBuffer, _: tvm_ffi.StructuralMutator) -> Stmt:
        elements = math.prod(int(extent) for extent in item.buffer.shape)
        self.scratch += elements * _bytes(item.buffer.dtype)
        return item


def _bytes(dtype: str) -> float:
    kind = tvm.DataType(dtype)
    return float(kind.bits * kind.lanes) / 8


def loop_features(function: PrimFunc) -> dict[str, float]:
    """Logarithms of counts, of the whole function and of an iteration of its hottest loop."""
    reader = _Reader()
    reader.run(function.body)
    every = list(reader.counts.values()) or [_Counts()]
    hot = max(every, key=lambda counts: counts.work)
    numbers = {
        "parallel": reader.parallel,
        "lanes": reader.lanes,
        "written": reader.written,
        "scratch": reader.scratch,
        "bytes": reader.bytes,
        "loads": sum(counts.loads for counts in every),
        "stores": sum(counts.stores for counts in every),
        "products": sum(counts.products for counts in every),
        "hot passes": hot.passes,
        "hot loads": hot.loads / hot.passes,
        "hot stores": hot.stores / hot.passes,
        "hot products": hot.products / hot.passes,
        "hot products for a load": hot.products / max(hot.loads, 1.0),
    }
    return {name: math.log2(1 + number) for name, number in numbers.items()}


def knob_features(knobs: Knobs) -> dict[str, float]:
    """The fields: logarithms of numbers, places of enum members. Of a trace its loops tell all."""
    fields = dataclasses.fields(knobs)  # type: ignore[arg-type]
    values = {item.name: getattr(knobs, item.name) for item in fields}
    return {name: _number(value) for name, value in values.items() if not isinstance(value, str)}


def _number(value: int | Enum) -> float:
    if isinstance(value, Enum):
        return float(list(type(value)).index(value))
    return math.log2(1 + abs(value))


def features(plan: Plan, knobs: Knobs) -> tuple[float, ...]:
    """All of a candidate, in an order that a template and `VERSION` fix."""
    function = plan.emit("features", knobs).function
    numbers = {**knob_features(knobs), **loop_features(function)}
    return (float(VERSION), *(round(number, 4) for number in numbers.values()))
