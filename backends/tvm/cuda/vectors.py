"""Elements in vectors of 16 bytes: a thread for each vector of the widest result.

What is read along the innermost axis, from neighbour to neighbour, is read in vectors too; the rest
(broadcast rows, edges, gathers) element by element. Addresses are asked for their alignment when
the kernel runs: parts of what is joined may lie anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import tvm
import tvm_ffi
from tvm import sym, tirx
from tvm.ir import Call, Expr, TensorLoad, Var
from tvm.tirx import Buffer

from optc.backends.tvm.cuda.contraction import variables_of
from optc.backends.tvm.cuda.grid import Grid, ceil_div, point_of
from optc.backends.tvm.cuda.schemes import guarded
from optc.backends.tvm.cuda.staging import call
from optc.backends.tvm.cuda.task import Step
from optc.backends.tvm.cuda.tensor_cores import flat_index
from optc.backends.tvm.dtypes import width_of
from optc.backends.tvm.templates.accesses import Axis, axes_of
from optc.backends.tvm.templates.elements import Key, Read
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.nest import unravel
from optc.backends.tvm.templates.plan import Miss

_THREADS = 256
_BYTES = 16
_LEAST = 4  # bytes of a vector
_FEW = 4096  # vectors below which threads would idle, if each had one


def elementwise_in_vectors(step: Step) -> Miss | None:
    """Add the launch of a stage of elements, or say why they are computed one by one."""
    widths = [width_of(step.stage.output(n).dtype) for n in range(step.stage.num_outputs)]
    if any(step.stage.output(n).dtype == "bool" for n in range(step.stage.num_outputs)):
        return Miss("TVM's printer gives bools no address")
    lanes = _BYTES // max(widths)
    if lanes < 2 or min(widths) * lanes < _LEAST:
        return Miss("no vector of 16 bytes holds an element of each result")
    if not step.extents or step.extents[-1] % lanes:
        return Miss(f"the innermost axis is no multiple of {lanes}")
    if math.prod(step.extents) // lanes < _FEW:
        return Miss("there are too few elements")
    _Emission(step, lanes).run()
    return None


class _Emission:
    def __init__(self, step: Step, lanes: int) -> None:
        self.step, self.task, self.lanes = step, step.task, lanes
        self.vectors = math.prod(step.extents) // lanes
        self.grid = Grid(ceil_div(self.vectors, _THREADS), _THREADS)
        self.code = self.grid.code
        stage = step.stage
        self.goals = [self.task.goal_of(stage.output(n)) for n in range(stage.num_outputs)]
        self.loads = neighbours(step, lanes)

    def run(self) -> None:
        """Vectors where all addresses allow it, elements where they do not."""
        code, extents, lanes = self.code, self.step.extents, self.lanes
        reach = self.grid.blocks * _THREADS
        with guarded(code, point_of(self.grid), self.vectors, reach) as place:
            *outer, inner = unravel(code, place, [*extents[:-1], extents[-1] // lanes])
            start = code.bind(inner * lanes, "start")
            aligned = self._aligned()
            with code.when(aligned):
                self._in_vectors([*outer, start])
            with code.otherwise(aligned), code.loop("e", lanes) as e:
                self.step.finish(code, [*outer, start + e])
        self.task.add(self.grid)

    def _aligned(self) -> Expr:
        home = self.code.scratch("aligned", (1,), "int32")
        self.code.store(home, (0,), as_index(1))
        for buffer in (*self.loads, *self.goals):
            zero = [as_index(0)] * len(buffer.shape)
            base = tirx.address_of(tirx.BufferLoad(buffer, zero))
            nbytes = as_index(min(_BYTES, self._nbytes(buffer)))
            asked = tirx.call_extern("int32", "optc_aligned", base, nbytes)
            self.code.store(home, (0,), tirx.bitwise_and(home[0], asked))
        return tirx.NE(home[0], as_index(0))

    def _nbytes(self, buffer: Buffer) -> int:
        return self.lanes * width_of(buffer.dtype)

    def _in_vectors(self, point: Sequence[Expr]) -> None:
        code, sources = self.code, self.task.sources
        registers: dict[Buffer, Buffer] = {}
        for buffer, (axes, index) in self.loads.items():
            registers[buffer] = code.scratch("vector", (self.lanes,), buffer.dtype)
            places = {axis.var: at for axis, at in zip(axes, point, strict=True)}
            here = [_replaced(item, places) for item in index]
            self._move("optc_load", registers[buffer], tirx.BufferLoad(buffer, here))
        results = [code.scratch("result", (self.lanes,), goal.dtype) for goal in self.goals]
        with code.unrolled("e", self.lanes) as e:
            self.task.sources = {**sources, **self._from(registers, e)}
            at = [*point[:-1], point[-1] + e]
            self.step.finish(
                code, at, write=lambda n, _, value: code.store(results[n], (e,), value)
            )
            self.task.sources = sources
        for goal, result in zip(self.goals, results, strict=True):
            target = tirx.address_of(tirx.BufferLoad(goal, list(point)))
            source = tirx.address_of(tirx.BufferLoad(result, [as_index(0)]))
            call(code, f"optc_store<{self._nbytes(goal)}>", target, source)

    def _move(self, name: str, registers: Buffer, load: TensorLoad) -> None:
        target = tirx.address_of(tirx.BufferLoad(registers, [as_index(0)]))
        nbytes = self._nbytes(load.source)
        call(self.code, f"{name}<{nbytes}>", target, tirx.address_of(load))

    def _from(self, registers: Mapping[Buffer, Buffer], e: Expr) -> Mapping[Key, Read]:
        def read(vector: Buffer) -> Read:
            return lambda _: tirx.BufferLoad(vector, [e])

        return {
            key: read(registers[buffer])
            for key, buffer in self.task.buffers.items()
            if buffer in registers
        }


def neighbours(step: Step, lanes: int) -> dict[Buffer, tuple[list[Axis], list[Expr]]]:
    """What a stage reads from neighbour to neighbour along its last axis, in whole vectors.

    By buffer: axes of the stage, and the one index over them at which it is read.
    """
    axes = axes_of(step.extents, "p")
    code = Code()
    step.finish(code, [a.var for a in axes], write=lambda n, p, v: code.add(tirx.Evaluate(v)))
    found: dict[Buffer, list[TensorLoad]] = {}
    dropped: set[Buffer] = set()

    def load(item: TensorLoad, visitor: tvm_ffi.StructuralVisitor) -> None:
        found.setdefault(item.source, []).append(item)
        for index in item.indices:
            visitor.visit(index)

    def condition(item: Call, visitor: tvm_ffi.StructuralVisitor) -> None:
        if item.op.name == "prim.if_then_else":
            tvm_ffi.structural_walk(item, (TensorLoad, lambda x: dropped.add(x.source)))
        visitor.default_visit(item)

    tvm_ffi.structural_visit(code.statement(), [(TensorLoad, load), (Call, condition)])
    return {
        buffer: (axes, list(loads[0].indices))
        for buffer, loads in found.items()
        if buffer not in dropped and _is_vector(step, loads, axes, lanes)
    }


def _is_vector(step: Step, loads: Sequence[TensorLoad], axes: Sequence[Axis], lanes: int) -> bool:
    buffer, last = loads[0].source, axes[-1]
    known = buffer in step.task.buffers.values() and buffer.dtype != "bool"
    known = known and width_of(buffer.dtype) * lanes >= _LEAST
    same = all(tvm_ffi.structural_equal(loads[0].indices, load.indices) for load in loads)
    place = flat_index(loads[0])
    if not known or not same or not variables_of(place) <= {axis.var for axis in axes}:
        return False
    analyzer = sym.Analyzer()
    for axis in axes:
        analyzer.bind(axis.var, tvm.ir.Range(0, axis.extent))
    step_of = analyzer.simplify(_replaced(place, {last.var: last.var + 1}) - place)
    begins = analyzer.modular_set(_replaced(place, {last.var: as_index(0)}))
    follows = isinstance(step_of, tirx.IntImm) and int(step_of) == 1
    return follows and int(begins.coeff) % lanes == 0 and int(begins.base) % lanes == 0


def _replaced(value: Expr, places: Mapping[Var, Expr]) -> Expr:
    return tvm_ffi.structural_map(value, (Var, lambda item: places.get(item, item)))
