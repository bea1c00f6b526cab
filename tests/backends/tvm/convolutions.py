"""Convolution tasks for tests: bodies around one node, run by kernels and by torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.backends.reference.evaluate import run_graph
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.ops import Conv, ConvTranspose, Op
from optc.ir.targets.detect import host
from optc.ir.targets.target import Target
from optc.ir.types import TensorType
from tests.backends.tvm.loaded import Loaded
from tests.strategies.values import closeness

Follow = Callable[[Builder, Value], Value]
WEIGHTS = frozenset({1, 2})


def task(
    op: Conv | ConvTranspose,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    *,
    bias: bool = True,
    dtype: DType = DType.F32,
    before: Follow | None = None,
    after: Follow | None = None,
) -> Graph:
    """A convolution of `x` between what `before` and `after` emit."""
    builder = Builder("task")
    first = builder.input(TensorType(x, dtype))
    inputs = [first, builder.input(TensorType(weight, dtype))]
    outputs = weight[0] if isinstance(op, Conv) else weight[1] * op.groups
    if bias:
        inputs.append(builder.input(TensorType((outputs,), dtype)))
    inputs[0] = before(builder, first) if before else first
    result = builder.emit(op, *inputs)
    return builder.build([after(builder, result) if after else result])


def single(op: Op, types: Sequence[TensorType]) -> Graph:
    """A body of one node."""
    builder = Builder("task")
    inputs = [builder.input(type) for type in types]
    return builder.build(builder.emit_all(op, *inputs))


def random_inputs(body: Graph, seed: int = 0) -> list[Tensor]:
    """Normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(v.shape, generator=generator).to(TORCH_DTYPE[v.type.dtype]) for v in body.inputs
    ]


def check(
    bodies: Sequence[Graph], template: str, target: Target | None = None, *, choice: int = 0
) -> None:
    """All bodies run by the template agree with torch; weights and biases are constants.

    On a target that keeps to direct convolutions: Winograd's has tests of its own.
    """
    target = replace(target or host(), winograd=False)
    known = [frozenset(i for i in WEIGHTS if i < len(body.inputs)) for body in bodies]
    kernels = Loaded(bodies, known, target, choice)
    for number, body in enumerate(bodies):
        assert kernels.templates[number].startswith(template), body.nodes
        inputs = random_inputs(body, number)
        for actual, wanted in zip(kernels(number, inputs), run_graph(body, inputs), strict=True):
            dtype = body.outputs[0].type.dtype
            terms = math.prod(body.inputs[1].shape[1:])
            close(actual, wanted, dtype, terms)


def close(actual: Tensor, wanted: Tensor, dtype: DType, terms: int) -> None:
    """Equal up to the rounding of sums of that many terms."""
    torch.testing.assert_close(actual, wanted, **closeness(dtype, terms))
