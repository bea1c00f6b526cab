"""Tasks over bytes: products and convolutions with what follows them, and inputs that provoke."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from optc.backends.reference.evaluate import run_graph
from optc.backends.tvm.templates.dot import dot_of
from optc.backends.tvm.templates.plan import Knobs, Plan, Problem
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.ops import Dequantize, Op, Quantize, Requantize, ew
from optc.ir.ops.quantization import limits
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Target
from optc.ir.types import TensorType
from tests.backends.tvm.loaded import Loaded

F32, I32, I8, U8 = DType.F32, DType.I32, DType.I8, DType.U8
EPILOGUES = ("", "bias", "requantize", "per tensor", "float", "residual")


@dataclass(frozen=True)
class Task:
    """A body and its constant inputs."""

    body: Graph
    constants: frozenset[int]


def task(
    op: Op,
    x: TensorType,
    weight: TensorType,
    epilogue: str = "",
    *,
    result: DType = U8,
    constant: bool = True,
    before: Callable[[Builder, Value], Value] | None = None,
    axis: int = -1,
) -> Task:
    """A product or convolution of bytes, and what follows: channels lie on `axis` of the result."""
    builder = Builder("bytes")
    inputs = [builder.input(x), builder.input(weight)]
    constants = {1} if constant else set()
    image = before(builder, inputs[0]) if before else inputs[0]
    known = len(inputs)
    channels = op.infer(image.type, weight)[0].shape[axis]
    biases = [builder.input(TensorType((channels,), I32))] if epilogue and constant else []
    value = builder.emit(op, image, inputs[1], *biases)
    value = _followed(builder, value, epilogue, result, axis)
    graph = builder.build([value])
    if constant:
        constants |= {i for i in range(known, len(graph.inputs)) if graph.inputs[i].hint != "other"}
    return Task(graph, frozenset(constants))


def _followed(builder: Builder, value: Value, epilogue: str, result: DType, axis: int) -> Value:
    per_channel = [1] * value.type.rank
    per_channel[axis] = value.shape[axis]
    whole = () if epilogue == "per tensor" else tuple(per_channel)
    if epilogue in ("requantize", "per tensor"):
        multiplier = builder.input(TensorType(whole, F32))
        zero = builder.input(TensorType((), result))
        return builder.emit(Requantize(result), value, multiplier, zero)
    if epilogue not in ("float", "residual"):
        return value
    scale, zero = builder.input(TensorType(whole, F32)), builder.input(TensorType((), I32))
    value = builder.emit(Dequantize(F32), value, scale, zero)
    if epilogue == "float":
        return value
    scales = [builder.input(TensorType((), F32)) for _ in range(2)]
    zeros = [builder.input(TensorType((), result)) for _ in range(2)]
    other = builder.input(value.type.with_dtype(result), "other")
    added = builder.emit(Dequantize(F32), other, scales[0], zeros[0])
    value = builder.emit(ew.Relu(), builder.emit(ew.Add(), value, added))
    return builder.emit(Quantize(result), value, scales[1], zeros[1])


def numbers(type: TensorType, seed: int, *, extreme: bool) -> Tensor:
    """Any bytes, or nearly all of them at one end of their range; factors near a thousandth."""
    source, dtype = np.random.default_rng(seed), type.dtype
    if dtype is F32:
        return torch.from_numpy(np.asarray(source.uniform(1e-4, 1e-3, type.shape), np.float32))
    least, most = (-20_000, 20_000) if dtype is I32 else limits(dtype)
    found = source.integers(least, most + 1, type.shape)
    if extreme and dtype is not I32:
        end, other = (most, least) if seed % 2 == 0 else (least, most)
        found = np.where(source.random(type.shape) < 0.95, end, other)
    return torch.from_numpy(np.asarray(found, dtype.storage))


def check(
    tasks: Sequence[Task],
    target: Target | None = None,
    choice: int = 0,
    plan: Callable[[Problem], tuple[Plan, Knobs]] | None = None,
) -> set[str]:
    """Every result has the reference's bits; answers with the templates that took the tasks."""
    bodies, constants = [item.body for item in tasks], [item.constants for item in tasks]
    loaded = Loaded(bodies, constants, target, choice, plan)
    for number, body in enumerate(bodies):
        for extreme in (False, True):
            inputs = [
                numbers(value.type, 10 * number + i, extreme=extreme)
                for i, value in enumerate(body.inputs)
            ]
            (found,), (wanted,) = loaded(number, inputs), run_graph(body, inputs)
            types = ", ".join(str(value.type) for value in body.inputs)
            place = f"{loaded.templates[number]}: {types} -> {body.outputs[0].type}, {extreme=}"
            assert torch.equal(found, wanted), place
    return set(loaded.templates)


def windows_templates(target: str) -> set[str]:
    """Windows of one channel: words, or, where they hold two rows, what pays."""
    words = dot_of(find_target(target), U8, I8).group == 4
    return {"taps/2"} if words else {"taps/2", "depthwise/4"}


@st.composite
def products(draw: DrawFn) -> tuple[TensorType, TensorType]:
    """Types of x [rows, K] and weight [N, K]: ragged, and long enough to overflow 16 bits."""
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    length = draw(st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 257, 1000, 4100])))
    kind = draw(st.sampled_from((U8, I8)))
    return TensorType((rows, length), kind), TensorType((columns, length), I8)
