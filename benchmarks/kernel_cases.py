"""Shapes of kernels that are measured against the limit, and one program that holds them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import PrimFunc

from optc.backends.kernel import Job, Kernel
from optc.backends.program import (
    Call,
    Copy,
    Operand,
    Port,
    Program,
    RunSegment,
    Segment,
    Space,
    Switch,
    Weight,
    align,
)
from optc.backends.tvm.codegen import compile_functions
from optc.backends.tvm.templates.elements import parameter
from optc.backends.tvm.templates.loops import Code
from optc.ir.builder import Builder
from optc.ir.constant import splat
from optc.ir.cost import compute_dtype, cost
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node
from optc.ir.ops import Conv, Dequantize, Linear, Requantize, Task
from optc.ir.targets.target import Target
from optc.ir.types import TensorType


@dataclass(frozen=True)
class Case:
    """A kernel: the family it is shown in, its row and column there, and the node it computes."""

    family: str
    row: str
    column: str
    node: Node

    @property
    def job(self) -> Job:
        """What a kernel builder is asked: weights are constants."""
        assert isinstance(self.node.op, Task)
        return Job(self.node.op.body, frozenset(range(1, len(self.node.inputs))))


def task(op: Linear | Conv, *types: TensorType) -> Node:
    """A node that does nothing but `op`, as fusion would make it."""
    builder = Builder(op.name)
    return _around(builder.build([builder.emit(op, *(builder.input(type) for type in types))]))


def requantized(op: Linear | Conv, x: TensorType, weight: TensorType) -> Node:
    """A product of bytes that ends in bytes, each channel with a factor of its own."""
    builder = Builder(op.name)
    sums = builder.emit(op, builder.input(x), builder.input(weight))
    factors = TensorType((*(1,) * (sums.type.rank - 1), sums.shape[-1]), DType.F32)
    types = factors, TensorType((), DType.U8)
    result = builder.emit(Requantize(DType.U8), sums, *(builder.input(type) for type in types))
    return _around(builder.build([result]))


def weight_only(rows: int, columns: int, depth: int, kind: DType, block: int) -> Node:
    """Floats times small integers, `block` of which along a row share a scale."""
    builder = Builder("weight_only")
    x = builder.input(TensorType((rows, depth), DType.F32))
    stored = builder.input(TensorType((columns, depth), kind))
    scale = builder.input(TensorType((columns, depth // block), DType.F32))
    zero = builder.input(TensorType((), kind))
    weight = builder.emit(Dequantize(DType.F32), stored, scale, zero)
    return _around(builder.build([builder.emit(Linear(), x, weight)]))


def _around(body: Graph) -> Node:
    """A node that runs the body; all its inputs but the first are constants."""
    outer = Builder()
    first, *rest = (value.type for value in body.inputs)
    outer.emit(Task(body), outer.input(first), *(outer.constant(splat(0, t)) for t in rest))
    return outer.nodes[0]


ROWS = (1, 2, 3, 5, 8, 16, 31, 64, 100, 127, 128, 197, 512)
WEIGHTS = (
    (17, 17), (64, 64), (100, 100), (128, 128), (384, 384), (384, 1536), (768, 768),
    (3072, 768), (1001, 513),
)  # fmt: skip
VECTORS = ((768, 768), (3072, 768), (1000, 2048), (4096, 4096), (50257, 768), (1003, 1021))

# ResNet-50's: image size, channels in and out, kernel, stride.
CONVS = (
    (224, 3, 64, 7, 2), (56, 64, 64, 1, 1), (56, 64, 64, 3, 1), (56, 64, 256, 1, 1),
    (56, 256, 64, 1, 1), (56, 256, 128, 1, 1), (56, 128, 128, 3, 2), (28, 128, 512, 1, 1),
    (56, 256, 512, 1, 2), (28, 512, 128, 1, 1), (28, 128, 128, 3, 1), (28, 256, 256, 3, 2),
    (14, 256, 1024, 1, 1), (28, 512, 1024, 1, 2), (14, 1024, 256, 1, 1), (14, 256, 256, 3, 1),
    (14, 512, 512, 3, 2), (7, 512, 2048, 1, 1), (14, 1024, 2048, 1, 2), (7, 2048, 512, 1, 1),
    (7, 512, 512, 3, 1),
)  # fmt: skip
# Depthwise: image size, channels, kernel, stride (MobileNetV2, EfficientNet, ConvNeXt).
DEPTHWISE = (
    (112, 32, 3, 1), (112, 96, 3, 2), (56, 144, 3, 1), (56, 144, 3, 2), (28, 192, 3, 1),
    (28, 240, 5, 1), (14, 384, 3, 1), (14, 672, 5, 1), (14, 576, 3, 2), (7, 960, 3, 1),
    (56, 96, 7, 1), (14, 384, 7, 1),
)  # fmt: skip
HALVES = {DType.F32: "", DType.BF16: " bf16", DType.I8: " i8"}


def linear(rows: int, columns: int, depth: int, dtype: DType = DType.F32) -> Node:
    """[rows, depth] times the transpose of [columns, depth]."""
    first = DType.U8 if dtype is DType.I8 else dtype
    return task(Linear(), TensorType((rows, depth), first), TensorType((columns, depth), dtype))


def conv(
    size: int,
    into: int,
    out: int,
    kernel: int,
    stride: int,
    groups: int = 1,
    dtype: DType = DType.F32,
) -> Node:
    """A square convolution on one image, channels last, padded as usual; bytes end in bytes."""
    pad = (kernel // 2, kernel // 2)
    op = Conv((stride, stride), (pad, pad), (1, 1), groups, channels_last=True)
    bytes_ = dtype is DType.I8
    x = TensorType((1, size, size, into), DType.U8 if bytes_ else dtype)
    weight = TensorType((out, into // groups, kernel, kernel), dtype)
    return requantized(op, x, weight) if bytes_ else task(op, x, weight)


def cases(families: Sequence[str]) -> tuple[Case, ...]:
    """All shapes of the families asked for."""
    found = []
    for dtype, suffix in HALVES.items():
        if f"gemm{suffix}" in families:
            found += [
                Case(f"gemm{suffix}", str(m), f"{n}x{k}", linear(m, n, k, dtype))
                for m in ROWS
                for n, k in WEIGHTS
            ]
    if "gemv" in families:
        found += [Case("gemv", f"{n}x{k}", "f32", linear(1, n, k)) for n, k in VECTORS]
    if "weight only" in families:
        found += [
            Case("weight only", f"{m}x{n}x{k} {d} by {b}", "f32", weight_only(m, n, k, d, b))
            for m in (1, 4)
            for n, k in ((4096, 4096), (11008, 4096))
            for d, b in ((DType.I8, k), (DType.I8, 128), (DType.I4, 128), (DType.I4, 32))
        ]
    for dtype, suffix in HALVES.items():
        name = f"conv{suffix}"
        if name in families:
            found += [Case(name, _conv_name(*c), "f32", conv(*c, dtype=dtype)) for c in CONVS]
        name = f"depthwise{suffix}"
        if name in families:
            found += [
                Case(name, f"{s}x{s}x{c} {k}x{k}/{t}", "f32", conv(s, c, c, k, t, c, dtype))
                for s, c, k, t in DEPTHWISE
            ]
    return tuple(found)


def _conv_name(size: int, into: int, out: int, kernel: int, stride: int) -> str:
    return f"{size}x{size}x{into} {kernel}x{kernel}/{stride} {out}"


FAMILIES = ("gemm", "gemv", "conv", "depthwise")
NARROW = ("gemm bf16", "gemm i8", "conv bf16", "conv i8", "depthwise i8", "weight only")


_CHAINS = 8  # vectors of sums, so that additions do not wait for each other


@dataclass
class _Store:
    """Inputs and packed weights: all of them read only, equal ones once."""

    blocks: list[Weight]
    places: dict[object, int]
    end: int = 0

    def operand(self, key: object, array: NDArray[Any]) -> Operand:
        if key not in self.places:
            data = np.ascontiguousarray(array)
            self.places[key] = self.end
            self.blocks.append(Weight.of(self.end, data))
            self.end += align(data.nbytes)
        return Operand(Space.WEIGHTS, self.places[key])


READING = ("gemv",)  # families that do little but read their weights


def reading(size: int, symbol: str, target: Target) -> PrimFunc:
    """A function that does nothing but read `size` floats, each thread a part: (floats, sums)."""
    lanes = target.lanes(DType.F32)
    step = lanes * _CHAINS
    part = size // target.cores // step * step
    floats = parameter(TensorType((size,), DType.F32), "floats")
    found = parameter(TensorType((target.cores * step,), DType.F32), "found")
    code = Code()
    with code.parallel("thread", target.cores) as thread:
        start = code.bind(thread * part, "start")
        sums = code.scratch("sums", (step,), "float32")

        def each(value: Callable[[Expr], Expr]) -> None:
            for chain in range(_CHAINS):
                with code.vector("lane", lanes) as lane:
                    code.store(sums, (chain * lanes + lane,), value(chain * lanes + lane))

        each(lambda place: tirx.const(0, "float32"))
        with code.loop("block", part // step) as block:
            each(lambda place: sums[place] + floats[start + block * step + place])
        for chain in range(_CHAINS):
            with code.vector("lane", lanes) as lane:
                place = chain * lanes + lane
                code.store(found, (thread * step + place,), sums[place])
    return code.function(symbol, [floats, found])


def program(
    jobs: Sequence[tuple[Job, Node]],
    kernels: Sequence[Kernel],
    target: Target,
    readers: Sequence[int] = (),
) -> Program:
    """One program of many kernels: its first input says which of them runs.

    What a kernel reads is stored with the weights, what it writes goes to the arena: nothing is
    copied in or out. Behind the last of them is one that returns at once, for what a call takes,
    and one for each of `readers` that reads that kernel's weights and does nothing else.
    """
    store, segments, arena = _Store([], {}), [], 0
    for number, ((job, node), kernel) in enumerate(zip(jobs, kernels, strict=True)):
        operands = []
        for place, value in enumerate(job.body.inputs):
            pack = kernel.packs.get(place)
            array = numbers(value.type)
            content = pack(array) if pack else array
            operands.append(store.operand((value.type, repr(pack)), content))
        start = 0
        sizes = [value.type.nbytes for value in job.body.outputs]
        for nbytes in (*sizes, *kernel.workspaces):
            operands.append(Operand(Space.ARENA, start))
            start += align(nbytes)
        arena = max(arena, start)
        price = cost(node)
        weights = sum(value.type.nbytes for value in job.body.inputs[1:])
        call = Call(
            kernel.symbol, tuple(operands), f"{number}", price.flops, price.bytes, (),
            price.bytes_written, weights, compute_dtype(node),
        )  # fmt: skip
        segments.append(Segment(f"case {number}", (call,)))
    which = Operand(Space.INPUT, 0)
    functions = [Code().function("nothing", [])]
    more = [Call("nothing", (), f"{len(jobs)}", 0, 0)]
    for place, number in enumerate(readers):
        weights = segments[number].calls[0].operands[1]
        size = next(w.nbytes for w in store.blocks if w.offset == weights.offset) // 4
        functions.append(reading(size, f"reading{number}", target))
        name = f"{len(jobs) + 1 + place}"
        more.append(Call(f"reading{number}", (weights, Operand(Space.ARENA, 0)), name, 0, 4 * size))
        arena = max(arena, target.cores * _CHAINS * target.vector_bits // 8)
    segments += [Segment(call.symbol, (call,)) for call in more]
    segments.append(Segment("end", (Copy(which, Operand(Space.OUTPUT, 0), 4),)))
    runs = tuple((RunSegment(segment.name),) for segment in segments[:-1])
    return Program(
        name="kernels",
        inputs=(Port("which", (), DType.I32),),
        outputs=(Port("done", (), DType.I32),),
        segments=tuple(segments),
        flow=(Switch(which, runs), RunSegment("end")),
        objects=(
            *{kernel.symbol: kernel.object for kernel in kernels}.values(),
            compile_functions(functions, target).data,
        ),
        triple=target.triple,
        cpu=target.cpu,
        features=target.features,
        arena_bytes=arena,
        weights=tuple(store.blocks),
    )


def numbers(type: TensorType) -> NDArray[Any]:
    """Small numbers that no sum makes large: nothing becomes a denormal or infinite."""
    source = np.random.default_rng(type.elements)
    if type.dtype is DType.BF16:
        bits = source.standard_normal(type.shape).astype(np.float32).view(np.uint32)
        return (bits >> 16).astype(np.uint16)
    if type.dtype.is_float:
        return source.standard_normal(type.shape, np.float32).astype(type.dtype.storage)
    return source.integers(0, 100, type.shape).astype(type.dtype.storage)
