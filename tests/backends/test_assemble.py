"""Programs are right whatever the kernels: each is run call by call, the reference in their place.

The interpreter here knows addresses and bytes only, so a value that lies in the wrong place, or is
overwritten while it is needed, shows in the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from optc.backends.assemble import assemble, joins_of
from optc.backends.kernel import Job
from optc.backends.program import Call, Copy, Operand, Program, Space
from optc.backends.reference.evaluate import run_graph
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.module import Module, module_of
from optc.ir.ops import Concat, Reshape, ew
from optc.ir.targets.catalogue import find_target
from optc.ir.types import TensorType
from optc.passes.base import PassContext
from optc.passes.fusion.fuse import Fuse

WIDTH = 3
TARGET = find_target("x86-64-v3")


@dataclass(frozen=True)
class Stand:
    """A kernel that is only a name for its body; it asks for some scratch memory."""

    symbol: str
    body: Graph
    object: bytes = b""
    source: str = ""
    packs: dict[int, Any] = field(default_factory=dict)
    launches: tuple[Any, ...] = ()
    workspaces: tuple[int, ...] = (40, 7)
    template: str = "stand"


@dataclass
class Machine:
    """The memory of a program that runs, as bytes."""

    spaces: dict[Space, NDArray[np.uint8]]
    inputs: list[NDArray[np.uint8]]
    outputs: list[NDArray[np.uint8]]

    def bytes(self, at: Operand, nbytes: int) -> NDArray[np.uint8]:
        """The bytes an operand points to."""
        if at.space is Space.INPUT:
            return self.inputs[at.offset][at.start : at.start + nbytes]
        if at.space is Space.OUTPUT:
            return self.outputs[at.offset][at.start : at.start + nbytes]
        start = at.offset + at.start
        assert start + nbytes <= len(self.spaces[at.space])
        return self.spaces[at.space][start : start + nbytes]


def executed(module: Module, inputs: Sequence[Tensor]) -> tuple[Program, list[Tensor]]:
    """The module's program, and what it computes."""
    bodies: dict[str, Stand] = {}

    def build(jobs: Sequence[Job]) -> list[Stand]:
        for number, job in enumerate(jobs):
            bodies[f"k{number}"] = Stand(f"k{number}", job.body)
        return [bodies[f"k{number}"] for number in range(len(jobs))]

    program = assemble(module, build, TARGET)
    machine = Machine(
        {
            Space.ARENA: np.full(program.arena_bytes, 0xFF, np.uint8),
            Space.WEIGHTS: np.zeros(program.weights_bytes, np.uint8),
            Space.STATE: np.zeros(program.state_bytes, np.uint8),
        },
        [item.contiguous().numpy().reshape(-1).view(np.uint8).copy() for item in inputs],
        [np.full(port.nbytes, 0xFF, np.uint8) for port in program.outputs],
    )
    for block in program.weights:
        data = np.ascontiguousarray(block.load()).reshape(-1).view(np.uint8)
        machine.spaces[Space.WEIGHTS][block.offset : block.offset + block.nbytes] = data
    for segment in program.segments:
        for call in segment.calls:
            if isinstance(call, Copy):
                source = machine.bytes(call.source, call.nbytes).copy()
                machine.bytes(call.target, call.nbytes)[:] = source
            else:
                _called(machine, call, bodies[call.symbol])
    found = [
        torch.from_numpy(data.view(np.float32).reshape(port.shape))
        for data, port in zip(machine.outputs, program.outputs, strict=True)
    ]
    return program, found


def _called(machine: Machine, call: Call, kernel: Stand) -> None:
    body = kernel.body
    count = len(body.inputs)
    places = [
        machine.bytes(at, value.type.nbytes)
        for at, value in zip(call.operands, (*body.inputs, *body.outputs), strict=False)
    ]
    inputs = [
        torch.from_numpy(place.copy().view(np.float32).reshape(value.shape))
        for place, value in zip(places, body.inputs, strict=False)
    ]
    for at, nbytes in zip(call.operands[len(places) :], kernel.workspaces, strict=True):
        machine.bytes(at, nbytes)[:] = 0xFF
    for place in places[count:]:
        place[:] = 0xFF
    for place, result in zip(places[count:], run_graph(body, inputs), strict=True):
        place[:] = result.contiguous().numpy().reshape(-1).view(np.uint8)


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
