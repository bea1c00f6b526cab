"""Flattens buffers and simplifies indices, loop bounds and conditions. Floats stay as written.

TVM's own flattening takes longer than LLVM does. Its simplifier cancels (x + c) - c, folds x != x,
and copies every named float to where it is used: long expressions become exponentially longer.
"""

from __future__ import annotations

import math

import tvm
import tvm_ffi
from tvm import sym, tirx
from tvm.ir import Call, Expr, TensorLoad
from tvm.tirx import Buffer, PrimFunc, Stmt

_DIVISIONS = (tirx.FloorDiv, tirx.FloorMod, tirx.Div, tirx.Mod)
_POINTER = "tirx.buffer_data"
_CONDITION = "prim.if_then_else"


def simplify_indices(function: PrimFunc) -> PrimFunc:
    """The function over flat buffers; divisions in indices, and guards, resolved by loop ranges."""
    simplifier = _Simplifier()
    parameters = [simplifier.flat(buffer) for buffer in function.params]
    return PrimFunc(parameters, simplifier.run(function.body), function.ret_type, function.attrs)


class _Simplifier:
    def __init__(self) -> None:
        self.analyzer = sym.Analyzer()
        self.buffers: dict[Buffer, Buffer] = {}

    def flat(self, buffer: Buffer) -> Buffer:
        """The same memory with one axis, and a byte for a bool."""
        if buffer not in self.buffers:
            extent = math.prod(int(extent) for extent in buffer.shape)
            self.buffers[buffer] = tirx.decl_buffer(
                (extent,),
                "int8" if buffer.dtype == "bool" else buffer.dtype,
                buffer.name,
                scope=buffer.scope(),
                data_alignment=buffer.data_alignment,
                layout=None,
            )
        return self.buffers[buffer]

    def run(self, body: Stmt) -> Stmt:
        return tvm_ffi.structural_mutate(
            body,
            [
                (tirx.For, self._loop),
                (tirx.Bind, self._bind),
                (TensorLoad, self._load),
                (tirx.BufferStore, self._store),
                (tirx.IfThenElse, self._branch),
                (tirx.AllocBuffer, lambda item, _: tirx.AllocBuffer(self.flat(item.buffer))),
                (tirx.DeclBuffer, self._declare),
                (Call, self._call),
            ],
        )

    def _loop(self, item: tirx.For, mutator: tvm_ffi.StructuralMutator) -> Stmt:
        extent = self.analyzer.simplify(item.extent)
        self.analyzer.bind(item.loop_var, tvm.ir.Range.from_min_extent(item.min, extent))
        body = mutator.mutate(item.body)
        return tirx.For(
            item.loop_var,
            item.min,
            extent,
            item.kind,
            body,
            thread_binding=item.thread_binding,
            annotations=item.annotations,
        )

    def _bind(self, item: tirx.Bind, mutator: tvm_ffi.StructuralMutator) -> Stmt:
        value = mutator.mutate(item.value)
        if value.ty.dtype != "int32":
            return tirx.Bind(item.var, value)
        value = self.analyzer.simplify(value)
        bound = self.analyzer.const_int_bound(value)
        if bound.min_value > -(1 << 31) and bound.max_value < (1 << 31) - 1:
            extent = tirx.const(bound.max_value - bound.min_value + 1, "int32")
            least = tirx.const(bound.min_value, "int32")
            self.analyzer.bind(item.var, tvm.ir.Range.from_min_extent(least, extent))
        return tirx.Bind(item.var, value)

    def _declare(self, item: tirx.DeclBuffer, mutator: tvm_ffi.StructuralMutator) -> Stmt:
        return tirx.DeclBuffer(self.flat(item.buffer), data=mutator.mutate(item.data))

    def _load(self, item: TensorLoad, mutator: tvm_ffi.StructuralMutator) -> Expr:
        value = tirx.BufferLoad(self.flat(item.source), self._place(item, mutator))
        return tirx.NE(value, tirx.const(0, "int8")) if item.source.dtype == "bool" else value

    def _store(self, item: tirx.BufferStore, mutator: tvm_ffi.StructuralMutator) -> Stmt:
        value = mutator.mutate(item.value)
        if item.buffer.dtype == "bool":
            value = tirx.Cast("int8", value)
        return tirx.BufferStore(self.flat(item.buffer), value, self._place(item, mutator))

    def _place(
        self, item: TensorLoad | tirx.BufferStore, mutator: tvm_ffi.StructuralMutator
    ) -> list[Expr]:
        indices = [self._simple(mutator.mutate(index)) for index in item.indices]
        if not indices:
            return [tirx.const(0, "int32")]
        buffer = item.source if isinstance(item, TensorLoad) else item.buffer
        place, *rest = indices
        for index, extent in zip(rest, buffer.shape[1:], strict=True):
            place = place * extent
            # TVM reads neighbours by one load only where the index is a ramp itself.
            if isinstance(index, tirx.Ramp):
                place = tirx.Ramp(place + index.base, index.stride, index.lanes)
            else:
                place = place + index
        return [place]

    def _simple(self, index: Expr) -> Expr:
        stop = (_DIVISIONS, lambda _: tvm_ffi.VisitInterrupt(True))
        if tvm_ffi.structural_walk(index, stop) is None:
            return index
        return self.analyzer.simplify(index)

    def _branch(self, item: tirx.IfThenElse, mutator: tvm_ffi.StructuralMutator) -> Stmt:
        condition = self.analyzer.simplify(mutator.mutate(item.condition))
        chosen = _constant(condition)
        if chosen is not None and (chosen or item.else_case is not None):
            return mutator.mutate(item.then_case if chosen else item.else_case)
        other = None if item.else_case is None else mutator.mutate(item.else_case)
        return tirx.IfThenElse(condition, mutator.mutate(item.then_case), other)

    def _call(self, item: Call, mutator: tvm_ffi.StructuralMutator) -> Expr:
        if item.op.name == _POINTER:
            return self.flat(item.args[0]).data
        if item.op.name != _CONDITION:
            return mutator.default_mutate(item)
        condition = self.analyzer.simplify(mutator.mutate(item.args[0]))
        chosen = _constant(condition)
        if chosen is not None:
            return mutator.mutate(item.args[1 if chosen else 2])
        return tirx.if_then_else(condition, *(mutator.mutate(arg) for arg in item.args[1:]))


def _constant(condition: Expr) -> bool | None:
    return bool(condition.value) if isinstance(condition, tirx.IntImm) else None
