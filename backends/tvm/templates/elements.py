"""Single elements of a task's values, as expressions: how prologues and epilogues are fused.

Nodes are lowered to TE computes by the tables of `backends/tvm/lower`; this module inlines those
computes at the index a template asks for. Values a template computes itself (its anchor) are cut:
they become sources, read through a function the template gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import tvm_ffi
from tvm import te, tirx
from tvm.ir import Call, Expr, Var
from tvm.te.tensor import Operation
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.lower.element import ROUNDING, rounded, splat, wide
from optc.backends.tvm.lower.table import lower_node
from optc.backends.tvm.templates.legal import legal_call
from optc.backends.tvm.templates.loops import Code, Index, as_index
from optc.ir.graph import Graph, Value
from optc.ir.types import TensorType

Read = Callable[[Sequence[Expr]], Expr]
# TE refuses to compare rank-0 tensors, so tensors are never keys themselves.
Key = tuple[Operation, int]


def key_of(tensor: te.Tensor) -> Key:
    """What a tensor is known by in tables."""
    return tensor.op, tensor.value_index


class NotElementwise(Exception):
    """A value's elements need a loop to compute (a reduction, a scan): it cannot be inlined."""


# Raised below nested callbacks of TVM, which hand on only errors that they know by name.
tvm_ffi.register_error("NotElementwise", NotElementwise)


def placeholder(value: Value, name: str) -> te.Tensor:
    """A TE input of the value's type."""
    return te.placeholder(value.shape, tvm_dtype(value.type.dtype), name)


def parameter(type: TensorType, name: str) -> Buffer:
    """A function parameter of that type, dense and row-major."""
    return tirx.decl_buffer(type.shape, tvm_dtype(type.dtype), name)


def tensors_of(body: Graph, cut: Iterable[Value] = ()) -> dict[Value, te.Tensor]:
    """Every value of the body as a TE tensor; inputs and `cut` values are placeholders.

    Nodes all of whose outputs are cut are not lowered; `unrounded` gives their placeholder.
    Constants of a body are splats: an array of weights reaches a task as an input. Raises what
    `lower_node` raises.
    """
    cuts = set(cut)
    tensors = {value: placeholder(value, f"in{i}") for i, value in enumerate(body.inputs)}
    for value, constant in body.constants.items():
        tensors[value] = splat(constant)
    for node in body.nodes:
        if cuts.issuperset(node.outputs):
            results: Sequence[te.Tensor] = [_unknown(v.type) for v in node.outputs]
        else:
            results = lower_node(node, [tensors[v] for v in node.inputs])
        tensors.update(zip(node.outputs, results, strict=True))
    return tensors


class Elements:
    """Reads elements of tensors by inlining. `sources` says how placeholders are read.

    One object serves one block of code: what it bound there it hands back for the same index, so
    a value used many times is computed once.
    """

    def __init__(self, sources: Mapping[Key, Read], code: Code | None = None) -> None:
        self._sources = sources
        self._code = code
        self._bound: dict[Key, list[tuple[list[Expr], Expr]]] = {}

    def at(self, tensor: te.Tensor, index: Index) -> Expr:
        """The element at `index`; raises NotElementwise when it takes a loop to compute."""
        where = [as_index(i) for i in index]
        key = key_of(tensor)
        if key in self._sources:
            return self._sources[key](where)
        known = self._recall(key, where)
        if known is not None:
            return known
        result = self._inline(tensor, where)
        if self._code is not None:
            result = self._code.bind(result, tensor.op.name)
            self._bound.setdefault(key, []).append((where, result))
        return result

    def _recall(self, key: Key, where: list[Expr]) -> Expr | None:
        for index, result in self._bound.get(key, ()):
            if all(map(tvm_ffi.structural_equal, index, where)):
                return result
        return None

    def _inline(self, tensor: te.Tensor, where: list[Expr]) -> Expr:
        op = tensor.op
        if not isinstance(op, te.ComputeOp) or op.reduce_axis:
            raise NotElementwise(op.name)
        places = {axis.var: i for axis, i in zip(op.axis, where, strict=True)}
        return self.expression(op.body[tensor.value_index], places)

    def expression(self, body: Expr, places: Mapping[Var, Expr]) -> Expr:
        """A TE expression with its loads inlined and its variables replaced."""
        places = dict(places)
        # Behind a condition nothing may be computed early: it could read out of bounds.
        inner = Elements(self._sources) if _has_condition(body) else self

        def variable(item: Var, _: tvm_ffi.StructuralMutator) -> Expr:
            return places.get(item, item)

        def call(item: Call, mutator: tvm_ffi.StructuralMutator) -> Expr:
            if item.op.name != _LOAD:
                return legal_call(mutator.default_mutate(item))
            source, *index = item.args
            return inner.at(source, [mutator.mutate(i) for i in index])

        def let(item: tirx.Let, mutator: tvm_ffi.StructuralMutator) -> Expr:
            value = mutator.mutate(item.value)
            if inner._code is not None:
                places[item.var] = inner._code.bind(value, item.var.name)
                return mutator.mutate(item.body)
            # The same compute may be inlined twice: every copy binds a variable of its own.
            places[item.var] = fresh = Var(item.var.name, item.var.ty)
            return tirx.Let(fresh, value, mutator.mutate(item.body))

        return tvm_ffi.structural_mutate(body, [(Call, call), (Var, variable), (tirx.Let, let)])


_LOAD = "te.tensor_load"
_CONDITION = "prim.if_then_else"


def _has_condition(body: Expr) -> bool:
    def found(item: Call) -> tvm_ffi.VisitInterrupt | None:
        return tvm_ffi.VisitInterrupt(True) if item.op.name == _CONDITION else None

    return tvm_ffi.structural_walk(body, (Call, found)) is not None


def _unknown(type: TensorType) -> te.Tensor:
    """A value that a template computes: followers read it before it is rounded to its type."""
    return rounded(te.placeholder(type.shape, tvm_dtype(wide(type.dtype)), "anchor"), type)


def unrounded(tensor: te.Tensor) -> te.Tensor:
    """The tensor in the dtype it was computed in."""
    rounding = isinstance(tensor.op, te.ComputeOp) and tensor.op.tag == ROUNDING
    return tensor.op.input_tensors[0] if rounding else tensor
