"""What a rule works with: the node being taken, the builder, and the moves that most rules make."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from optc.ir.builder import Builder
from optc.ir.capture.dims import Assignment, number_of
from optc.ir.capture.dtypes import TO_TORCH, from_torch
from optc.ir.capture.refusal import Refusal
from optc.ir.capture.weights import constant_of
from optc.ir.constant import Scalar
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Concat, Expand, Op, Reshape, Slice, Take, Transpose
from optc.ir.ops.elementwise import Cast
from optc.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Complex:
    """A complex tensor while a graph is taken: two tensors of one type. It never enters the IR."""

    re: Value
    im: Value


Operand = Value | Scalar


class Context:
    """State of one capture that rules read and write. `node` is the ATen node being expressed."""

    def __init__(self, builder: Builder, assignment: Assignment) -> None:
        self.builder = builder
        self.assignment = assignment
        self.node: fx.Node
        self._lifted: dict[int, tuple[torch.Tensor, Value]] = {}
        self._tensors: dict[Value, torch.Tensor] = {}
        self._weights: set[Value] = set()
        self._numbers: dict[tuple[str, DType], Value] = {}

    # What torch says about the node

    def fake(self, index: int = 0) -> torch.Tensor:
        """The fake tensor of the node's output."""
        found = self.node.meta["val"]
        tensor = found[index] if isinstance(found, list | tuple) else found
        assert isinstance(tensor, torch.Tensor)
        return tensor

    def dtype(self, index: int = 0) -> DType:
        """Element type of the node's output (of its parts where it is complex)."""
        return from_torch(self.fake(index).dtype)

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of the node's output; raises Refusal where only the data decides it."""
        return tuple(number_of(size, self.assignment) for size in self.fake(index).shape)

    def used(self, index: int) -> bool:
        """Whether anything reads this output of a node with several."""
        readers = [user for user in self.node.users if user.target is operator.getitem]
        return any(user.args[1] == index for user in readers) or len(readers) < len(self.node.users)

    # Constants

    def lift(self, tensor: torch.Tensor) -> Value | Complex:
        """A tensor known at compile time as a constant; the same tensor gives the same value."""
        if id(tensor) in self._lifted:
            return self._lifted[id(tensor)][1]
        if tensor.is_complex():
            parts = torch.view_as_real(tensor.resolve_conj())
            re, im = self.constant(parts[..., 0]), self.constant(parts[..., 1])
            return Complex(re, im)
        value = self.constant(tensor)
        self._lifted[id(tensor)] = (tensor, value)
        return value

    def constant(self, tensor: torch.Tensor) -> Value:
        """A real tensor as a new constant."""
        value = self.builder.constant(constant_of(tensor.detach()), "const")
        self._tensors[value] = tensor.detach()
        return value

    def weight(self, value: Value, tensor: torch.Tensor) -> None:
        """Note which tensor stands behind a parameter or buffer that the builder already holds.

        Integers and bools are positions and masks: they may be computed with while capturing.
        """
        self._tensors[value] = tensor.detach()
        if value.type.dtype.is_float:
            self._weights.add(value)

    def known(self, value: Value) -> torch.Tensor | None:
        """The tensor behind a constant or weight, or None for what is computed at run time."""
        return self._tensors.get(value)

    def literal(self, value: Value) -> torch.Tensor | None:
        """The tensor behind a constant that is no weight: small, and free to be computed with."""
        return None if value in self._weights else self._tensors.get(value)

    def opaque(self, tensor: torch.Tensor) -> Value:
        """A constant that nothing computes with: it stands for what could not be taken."""
        value = self.constant(tensor)
        self._weights.add(value)
        return value

    def number(self, value: Scalar, dtype: DType) -> Value:
        """A scalar constant of rank 0."""
        key = (repr(value), dtype)
        if key not in self._numbers:
            self._numbers[key] = self.constant(torch.tensor(value).to(TO_TORCH[dtype]))
        return self._numbers[key]

    def indices(self, places: np.ndarray | torch.Tensor) -> Value:
        """Constant i64 indices."""
        return self.constant(torch.as_tensor(places, dtype=torch.int64))

    # Moves

    def emit(self, op: Op, *inputs: Value) -> Value:
        """A node with one output."""
        return self.builder.emit(op, *inputs, hint=self.node.name)

    def emit_all(self, op: Op, *inputs: Value) -> tuple[Value, ...]:
        """A node with several outputs."""
        return self.builder.emit_all(op, *inputs, hint=self.node.name)

    def cast(self, value: Value, dtype: DType) -> Value:
        """The value in another element type; constants that are no weights are converted here."""
        if value.type.dtype is dtype:
            return value
        tensor = self.known(value)
        if tensor is not None and value not in self._weights:
            return self.constant(tensor.to(TO_TORCH[dtype]))
        return self.emit(Cast(dtype), value)

    def value(self, operand: Operand, dtype: DType) -> Value:
        """An operand in an element type: a tensor is cast, a number becomes a constant."""
        return (
            self.cast(operand, dtype) if isinstance(operand, Value) else self.number(operand, dtype)
        )

    def common(self, *operands: Operand) -> list[Value]:
        """Operands in the element type that torch computes with (its promotion rules)."""
        dtype = from_torch(_result_type(operands))
        return [self.value(operand, dtype) for operand in operands]

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """The same elements in another shape; -1 stands for the extent that is left over."""
        sizes = list(shape)
        if -1 in sizes:
            rest = math.prod(size for size in sizes if size != -1)
            sizes[sizes.index(-1)] = value.type.elements // rest if rest else 0
        if tuple(sizes) == value.shape:
            return value
        known = self.literal(value)
        if known is not None:
            return self.constant(known.reshape(sizes))
        return self.emit(Reshape(tuple(sizes)), value)

    def permute(self, value: Value, perm: Sequence[int]) -> Value:
        """Axes in another order."""
        if list(perm) == list(range(value.type.rank)):
            return value
        known = self.literal(value)
        if known is not None:
            return self.constant(known.permute(*perm))
        return self.emit(Transpose(tuple(perm)), value)

    def move_axis(self, value: Value, source: int, target: int) -> Value:
        """One axis moved to another place, the others in order."""
        rest = [axis for axis in range(value.type.rank) if axis != source]
        return self.permute(value, [*rest[:target], source, *rest[target:]])

    def expand(self, value: Value, shape: Sequence[int]) -> Value:
        """Broadcast to a shape."""
        return value if tuple(shape) == value.shape else self.emit(Expand(tuple(shape)), value)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Join along an axis; values without elements are left out."""
        kept = [value for value in values if value.type.shape[axis]] or list(values[:1])
        return kept[0] if len(kept) == 1 else self.emit(Concat(axis), *kept)

    def slice(self, value: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
        """Part of an axis; bounds are clipped as Python clips them."""
        extent = value.shape[axis]
        first, last, _ = slice(start, stop, 1).indices(extent)
        last = max(first, last)
        if (first, last, step) == (0, extent, 1):
            return value
        known = self.literal(value)
        if known is not None:
            part = known.narrow(axis, first, last - first)
            return self.constant(part.movedim(axis, 0)[::step].movedim(0, axis))
        rank = value.type.rank
        starts, stops, steps = [0] * rank, list(value.shape), [1] * rank
        starts[axis], stops[axis], steps[axis] = first, last, step
        return self.emit(Slice(tuple(starts), tuple(stops), tuple(steps)), value)

    def take(self, value: Value, axis: int, places: np.ndarray | torch.Tensor) -> Value:
        """Elements at constant places along an axis."""
        return self.emit(Take(axis), value, self.indices(places))

    def unsqueeze(self, value: Value, axis: int) -> Value:
        """A new axis of extent 1."""
        return self.reshape(value, (*value.shape[:axis], 1, *value.shape[axis:]))

    def zeros_like(self, value: Value) -> Value:
        """Zeros of the same type."""
        return self.full(value.type, 0)

    def full(self, type: TensorType, number: Scalar) -> Value:
        """A constant with one value everywhere."""
        return self.constant(torch.tensor(number).to(TO_TORCH[type.dtype]).expand(type.shape))


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front; a scalar has one axis, as torch sees it."""
    return axis % max(rank, 1)


def axes_of(axes: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Sorted axes counted from the front; None and () are all of them."""
    listed = [axes] if isinstance(axes, int) else list(axes or range(rank))
    return tuple(sorted({axis_of(axis, rank) for axis in listed})) if rank else ()


def require(condition: bool, reason: str) -> None:
    """Raise Refusal with the reason unless the condition holds."""
    if not condition:
        raise Refusal(reason)


def _result_type(operands: Sequence[Operand]) -> torch.dtype:
    """Fold torch's promotion over operands; tensors with axes win over scalars of their kind."""
    stand_ins: list[torch.Tensor | Scalar] = [
        torch.empty((1,) * min(item.type.rank, 1), dtype=TO_TORCH[item.type.dtype])
        if isinstance(item, Value)
        else item
        for item in operands
    ]
    result = stand_ins[0]
    for item in stand_ins[1:]:
        dtype = torch.result_type(result, item)
        ranks = [part.dim() for part in (result, item) if isinstance(part, torch.Tensor)]
        result = torch.empty((1,) * max(ranks, default=0), dtype=dtype)
    return result.dtype if isinstance(result, torch.Tensor) else torch.tensor(result).dtype
