"""Programs are right whatever the kernels: each is run call by call, the reference for kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optc.backends.assemble import assemble
from optc.backends.indexable import MOST_ELEMENTS, refuse_unreachable
from optc.backends.kernel import Job
from optc.backends.program import Program
from optc.backends.reference.evaluate import run_graph
from optc.ir.builder import Builder
from optc.ir.diagnostics import OptcError
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.module import Module, module_of
from optc.ir.ops import Concat, Reshape, ew
from optc.ir.types import TensorType
from optc.passes.base import PassContext
from optc.passes.fusion.fuse import Fuse
from optc.passes.memory.joins import joins_of
from tests.backends.interpreted import TARGET, Interpreted

WIDTH = 3


def executed(module: Module, inputs: Sequence[Tensor]) -> tuple[Program, list[Tensor]]:
    """The module's program, and what it computes."""
    found = Interpreted(module)
    return found.program, found(inputs)


@st.composite
def joining(draw: st.DrawFn) -> Graph:
    """Chains, sums and reshapes of rows, joined again and again along the outermost axis."""
    builder = Builder("joining")
    values: list[Value] = [
        builder.input(TensorType((draw(st.integers(1, 3)), WIDTH), DType.F32)) for _ in range(2)
    ]
    values.append(builder.constant(np.arange(WIDTH, dtype=np.float32).reshape(1, WIDTH)))
    for _ in range(draw(st.integers(2, 10))):
        kind = draw(st.sampled_from(["unary", "add", "join", "join", "reshape"]))
        value = draw(st.sampled_from(values))
        if kind == "unary":
            values.append(builder.emit(ew.Tanh(), value))
        elif kind == "add":
            alike = [other for other in values if other.shape == value.shape]
            values.append(builder.emit(ew.Add(), value, draw(st.sampled_from(alike))))
        elif kind == "join":
            flat = [item for item in values if len(item.shape) == 2]
            parts = draw(st.lists(st.sampled_from(flat), min_size=2, max_size=4))
            if sum(part.shape[0] for part in parts) <= 24:
                values.append(builder.emit(Concat(axis=0), *parts))
        else:
            flat_shape = (value.type.elements // WIDTH, WIDTH)
            turned = (1, *value.shape) if len(value.shape) == 2 else flat_shape
            values.append(builder.emit(Reshape(turned), value))
    outputs = draw(st.lists(st.sampled_from(values[3:] or values[:1]), min_size=1, max_size=3))
    return builder.build(outputs)


@given(joining(), st.booleans())
def test_what_is_joined_lies_where_it_should(graph: Graph, fused: bool) -> None:
    module = module_of(graph)
    if fused:
        module = Fuse().run(module, PassContext(TARGET))
    inputs = [
        torch.randn(v.shape, generator=torch.Generator().manual_seed(1)) for v in graph.inputs
    ]
    _, found = executed(module, inputs)
    wanted = run_graph(graph, inputs)
    for ours, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=0)


def test_joining_along_the_outermost_axis_costs_no_pass_over_memory() -> None:
    builder = Builder("join")
    x = builder.input(TensorType((1, 4, WIDTH), DType.F32))
    parts = [builder.emit(op, x) for op in (ew.Tanh(), ew.Exp())]
    inner = builder.emit(Concat(axis=1), *parts)
    outer = builder.emit(Concat(axis=1), inner, x)
    module = module_of(builder.build([builder.emit(ew.Neg(), outer)]))
    assert list(joins_of(module.graphs[0]).values()) == [(0, 1), (0,)]
    program, _ = executed(module, [torch.ones(1, 4, WIDTH)])
    (segment,) = program.segments
    kinds = [type(call).__name__ for call in segment.calls]
    assert kinds == ["Call", "Call", "Copy", "Call"]
    assert program.arena_bytes <= 192 + 64 + 64  # the joined rows, and the kernels' scratch


def test_rows_joined_along_an_inner_axis_are_a_kernels_work() -> None:
    builder = Builder("inner")
    x = builder.input(TensorType((2, WIDTH), DType.F32))
    joined = builder.emit(Concat(axis=1), builder.emit(ew.Tanh(), x), x)
    assert joins_of(builder.build([joined])) == {}


@pytest.mark.parametrize("elements", [MOST_ELEMENTS, MOST_ELEMENTS + 1])
def test_what_32_bits_do_not_index_is_refused(elements: int) -> None:
    """The large value may be inside a task, where no buffer holds it."""
    builder = Builder("large")
    x = builder.input(TensorType((elements, 1), DType.I8))
    body = builder.build([builder.emit(ew.Relu(), x)])
    job = Job(body, frozenset())
    if elements <= MOST_ELEMENTS:
        refuse_unreachable([job])
        return
    with pytest.raises(OptcError, match=rf"E0505.*has {elements} elements"):
        refuse_unreachable([job])
    with pytest.raises(OptcError, match="E0505"):
        assemble(module_of(body), lambda jobs: [], TARGET)
