"""Pools by their template agree with torch, with infinities and nan, alone and fused."""

from __future__ import annotations

import pytest
import torch

from optc.backends.reference.evaluate import run_graph
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.ops import AvgPool, MaxPool, Op, Transpose, ew
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.convolutions import random_inputs, single
from tests.backends.tvm.loaded import Loaded
from tests.strategies.instances import instances, sample
from tests.strategies.values import closeness


@pytest.mark.parametrize("kind", [MaxPool, AvgPool])
def test_random_pools(kind: type[Op]) -> None:
    drawn = sample(instances(kind), 80)
    found = [item for item in drawn if item.op.channels_last]  # type: ignore[attr-defined]
    bodies = [single(item.op, item.types) for item in found]
    kernels = Loaded(bodies)
    assert set(kernels.templates) == {"pool/3"}
    for number, (item, body) in enumerate(zip(found, bodies, strict=True)):
        (actual,), (wanted,) = kernels(number, item.inputs()), run_graph(body, item.inputs())
        tolerance = closeness(item.types[0].dtype, 30)
        message = str(item)
        torch.testing.assert_close(
            actual, wanted, equal_nan=True, **tolerance, msg=lambda m, i=message: f"{i}: {m}"
        )


def pooled(op: MaxPool | AvgPool, shape: tuple[int, ...], *, fused: bool = False) -> Graph:
    builder = Builder("task")
    value = builder.input(TensorType(shape, DType.F32))
    if fused:
        value = builder.emit(Transpose((0, 2, 3, 1)), value)
    value = builder.emit(op, value)
    if fused:
        other = builder.input(value.type)
        value = builder.emit(ew.Relu(), builder.emit(ew.Add(), value, other))
    return builder.build([value])


@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64-v2"])
def test_pools_of_networks(target: str) -> None:
    two = ((1, 1), (1, 1))
    bodies = [
        pooled(MaxPool((3, 3), (2, 2), two, (1, 1), True), (1, 23, 29, 70)),
        pooled(AvgPool((2, 2), (2, 2), ((0, 0), (0, 1)), (1, 1), True), (2, 12, 15, 33)),
        pooled(AvgPool((3, 3), (1, 1), two, (1, 1), True, two), (1, 12, 9, 18)),
        pooled(
            MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), True), (1, 19, 12, 14), fused=True
        ),
    ]
    kernels = Loaded(bodies, target=find_target(target))
    for number, body in enumerate(bodies):
        inputs = random_inputs(body, number)
        torch.testing.assert_close(kernels(number, inputs)[0], run_graph(body, inputs)[0])
