"""Modules of several graphs whose flow can end early: stages, exits, states and parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from optc.ir.builder import Builder
from optc.ir.constant import constant
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.module import ExitIf, Flow, Module, Port, Run, State, Step
from optc.ir.ops import Linear, ReduceMax, ReduceMin, Softmax, Transpose, ew
from optc.ir.types import TensorType

SHAPE = TensorType((3, 3), DType.F32)
SCALAR = TensorType((), DType.F32)
STEPS = (ew.Tanh(), ew.Relu(), ew.Neg(), Softmax(axis=1), Transpose(perm=(1, 0)))


@dataclass(frozen=True)
class Exiting:
    """A module with exits, and inputs for some calls of it, one after the other."""

    module: Module
    calls: tuple[Tensor, ...]

    def at(self, **thresholds: float) -> Module:
        """The module with other thresholds, by the exits' names."""
        return with_thresholds(self.module, thresholds)


def with_thresholds(module: Module, thresholds: dict[str, float]) -> Module:
    """The module with the thresholds of exits replaced, by the exits' names."""
    states = tuple(
        replace(state, initial=number(thresholds[state.name.removesuffix(".threshold")]))
        if state.name.removesuffix(".threshold") in thresholds
        else state
        for state in module.states
    )
    return replace(module, states=states)


def number(value: float):  # type: ignore[no-untyped-def]
    """A scalar constant."""
    return constant(np.asarray(value, np.float32))


@st.composite
def exiting(draw: st.DrawFn) -> Exiting:
    """One to three exits behind stages; outputs in any order, from any variable that is there."""
    known = ["x"]
    steps: list[Step] = []
    graphs = []
    states = [State("memory", constant(np.ones(SHAPE.shape, np.float32)))]
    exits = draw(st.integers(1, 3))
    for stage in range(exits + 1):
        last = stage == exits
        builder = Builder(f"stage_{stage}")
        names = draw(st.lists(st.sampled_from([*known, "memory"]), min_size=1, max_size=3))
        values = [builder.input(SHAPE, "v") for _ in names]
        made = [_piece(draw, builder, values) for _ in range(draw(st.integers(1, 3)))]
        results = [f"h{stage}_{index}" for index in range(len(made))]
        if draw(st.booleans()):
            made.append(_piece(draw, builder, values))
            results.append("memory")
        if not last:
            threshold = builder.input(SCALAR, "threshold")
            fold = draw(st.sampled_from([ReduceMax, ReduceMin]))
            score = builder.emit(fold(axes=(0, 1)), made[0])
            made.append(builder.emit(ew.GreaterEqual(), score, threshold))
            name = f"exit_{stage}"
            names.append(f"{name}.threshold")
            results.append(name)
            first = draw(st.sampled_from([-1.0, 0.0, 0.4]))
            states.append(State(names[-1], number(first)))
        steps.append(Run(builder.name, tuple(names), tuple(results)))
        graphs.append(builder.build(made))
        known += [name for name in results if name.startswith("h")]
        if not last:
            pair = draw(st.lists(st.sampled_from(known), min_size=2, max_size=2))
            steps.append(ExitIf(f"exit_{stage}", tuple(pair)))
    chosen = draw(st.lists(st.sampled_from(known), min_size=2, max_size=2, unique=True))
    outputs = tuple(Port(name, SHAPE) for name in chosen)
    module = Module(
        "exiting", (Port("x", SHAPE),), outputs, tuple(states), tuple(graphs), Flow(tuple(steps))
    )
    seed = draw(st.integers(0, 1 << 20))
    generator = torch.Generator().manual_seed(seed)
    calls = tuple(torch.randn(SHAPE.shape, generator=generator) for _ in range(3))
    return Exiting(module, calls)


def _piece(draw: st.DrawFn, builder: Builder, values: list[Value]) -> Value:
    value = draw(st.sampled_from(values))
    for _ in range(draw(st.integers(0, 2))):
        value = builder.emit(draw(st.sampled_from(STEPS)), value)
    if draw(st.booleans()):
        value = builder.emit(ew.Add(), value, draw(st.sampled_from(values)))
    if draw(st.booleans()):
        weight = np.arange(9, dtype=np.float32).reshape(3, 3) / 9 - 0.4
        value = builder.emit(Linear(), value, builder.constant(weight, "weight"))
    return value
