"""Fused attention agrees with torch: masks, causal, grouped queries, merged projections, spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.backends.reference.evaluate import run_graph
from optc.backends.tvm.codegen import compile_functions
from optc.backends.tvm.templates.attend import AttendKnobs
from optc.backends.tvm.templates.attention import Attention as Template
from optc.backends.tvm.templates.attention import AttentionPlan
from optc.backends.tvm.templates.attention_mask import MaskPack
from optc.backends.tvm.templates.plan import Miss, Problem
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.ops import Attention, Reshape, Slice, Transpose, ew
from optc.ir.targets.detect import host
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.convolutions import single
from tests.backends.tvm.loaded import Loaded
from tests.strategies.instances import instances, sample
from tests.strategies.values import closeness

F32, BOOL = DType.F32, DType.BOOL
Shape = tuple[int, ...]


def heads(
    q: Shape,
    k: Shape,
    width: int,
    *,
    causal: bool = False,
    mask: Shape | None = None,
    hides: bool = False,
    dtype: DType = F32,
) -> Graph:
    """Attention of separate queries, keys and values; a mask that `hides` is of bools."""
    builder = Builder("task")
    inputs = [builder.input(TensorType(s, dtype)) for s in (q, k, (*k[:-1], width))]
    if mask is not None:
        inputs.append(builder.input(TensorType(mask, BOOL if hides else dtype)))
    return builder.build([builder.emit(Attention(q[-1] ** -0.5, causal), *inputs)])


def merged(batch: int, rows: int, count: int, depth: int) -> Graph:
    """Queries, keys and values side by side, as one linear makes them; the heads joined again."""
    builder = Builder("task")
    width = count * depth
    whole = builder.input(TensorType((batch, rows, 3 * width), F32))
    parts = []
    for part in range(3):
        begin, end = (0, 0, part * width), (batch, rows, (part + 1) * width)
        value = builder.emit(Slice(begin, end, (1, 1, 1)), whole)
        value = builder.emit(Reshape((batch, rows, count, depth)), value)
        parts.append(builder.emit(Transpose((0, 2, 1, 3)), value))
    result = builder.emit(Attention(depth**-0.5), *parts)
    result = builder.emit(Transpose((0, 2, 1, 3)), result)
    return builder.build([builder.emit(Reshape((batch, rows, width)), result)])


def inputs_of(body: Graph, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    numbers = [torch.randn(value.shape, generator=generator) for value in body.inputs]
    return [
        item > 0 if value.type.dtype is BOOL else item.to(TORCH_DTYPE[value.type.dtype])
        for item, value in zip(numbers, body.inputs, strict=True)
    ]


def check(
    bodies: Sequence[Graph], constants: frozenset[int] = frozenset(), target: str = "host"
) -> None:
    kernels = Loaded(bodies, [constants] * len(bodies), find_target(target))
    assert set(kernels.templates) == {"attention/1"}
    for number, body in enumerate(bodies):
        inputs = inputs_of(body, number)
        (actual,), (wanted,) = kernels(number, inputs), run_graph(body, inputs)
        torch.testing.assert_close(actual, wanted, **closeness(wanted_dtype(body), 40))


def wanted_dtype(body: Graph) -> DType:
    return body.outputs[0].type.dtype


@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64-v2"])
def test_shapes(target: str) -> None:
    check(
        [
            heads((1, 2, 37, 32), (1, 2, 37, 32), 32),
            heads((2, 3, 5, 8), (2, 3, 19, 8), 16),
            heads((1, 3, 33, 20), (1, 3, 30, 20), 24),
            heads((3, 16, 7), (3, 18, 7), 5),
            heads((1, 4, 1, 16), (1, 2, 50, 16), 16),
            heads((1, 6, 20, 16), (1, 2, 20, 16), 16, causal=True),
            heads((2, 20, 310), (2, 18, 310), 310),
        ],
        target=target,
    )


def test_code_does_not_grow_with_the_width() -> None:
    """Attention across channels (XCiT, DaViT) has values as wide as an image has positions."""
    sizes = []
    for width in (400, 3200):
        problem = Problem(heads((2, 32, width), (2, 32, width), width), frozenset(), host())
        plan = Template().match(problem)
        assert isinstance(plan, AttentionPlan)
        emitted = plan.emit("kernel", plan.candidates()[0])
        sizes.append(len(compile_functions([emitted.function], problem.target).data))
    assert sizes[1] < 1.2 * sizes[0]


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_storage_types(dtype: DType) -> None:
    check([heads((1, 2, 20, 16), (1, 2, 24, 16), 16, causal=True, dtype=dtype)])


@pytest.mark.parametrize("constant", [frozenset[int](), frozenset({3})])
@pytest.mark.parametrize("hides", [True, False])
def test_masks(hides: bool, constant: frozenset[int]) -> None:
    shapes: tuple[Shape, ...] = ((1, 1, 1, 21), (2, 1, 18, 21), (3, 18, 1), (18, 21), (21,), ())
    q, k = (2, 3, 18, 8), (2, 3, 21, 8)
    check([heads(q, k, 16, mask=shape, hides=hides) for shape in shapes], constant)


def test_heads_are_read_where_a_merged_projection_left_them() -> None:
    body = merged(2, 19, 3, 16)
    plan = Template().match(Problem(body, frozenset(), host()))
    assert isinstance(plan, AttentionPlan)
    emitted = plan.emit("k", plan.candidates()[0])
    assert compile_functions([emitted.function], host()).workspace["k"] == 0
    check([body])


def test_a_row_that_may_see_nothing_is_zero() -> None:
    body = heads((1, 1, 3, 4), (1, 1, 5, 4), 4, mask=(3, 5), hides=True)
    inputs = inputs_of(body)
    inputs[3] = torch.zeros(3, 5, dtype=torch.bool)
    inputs[3][1, 2] = True
    (actual,) = Loaded([body])(0, inputs)
    assert torch.equal(actual[0, 0, 0], torch.zeros(4))
    assert torch.equal(actual[0, 0, 2], torch.zeros(4))
    torch.testing.assert_close(actual[0, 0, 1], inputs[2][0, 0, 2])


def test_a_nan_stays() -> None:
    body = heads((1, 1, 4, 4), (1, 1, 5, 4), 4)
    inputs = inputs_of(body)
    inputs[0][0, 0, 2, 1] = float("nan")
    (actual,), (wanted,) = Loaded([body])(0, inputs), run_graph(body, inputs)
    torch.testing.assert_close(actual, wanted, equal_nan=True)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("hides", [True, False])
def test_spans_of_keys_are_rescaled(
    causal: bool, hides: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposed = AttentionPlan.candidates

    def short(plan: AttentionPlan) -> list[AttendKnobs]:
        first = proposed(plan)[0]
        assert isinstance(first, AttendKnobs)
        return [replace(first, span=16, keys=5)]

    monkeypatch.setattr(AttentionPlan, "candidates", short)
    mask = (40, 53) if hides else None
    q, k = (2, 40, 8), (2, 53, 8)
    check([heads(q, k, width, causal=causal, mask=mask, hides=hides) for width in (12, 300)])


def test_large_scores_neither_overflow_nor_vanish() -> None:
    body = heads((1, 20, 16), (1, 24, 16), 16)
    inputs = inputs_of(body)
    inputs[0] = inputs[0] * 200
    (actual,), (wanted,) = Loaded([body])(0, inputs), run_graph(body, inputs)
    torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)


def test_what_follows_is_fused() -> None:
    builder = Builder("task")
    shape = TensorType((1, 2, 18, 16), F32)
    inputs = [builder.input(shape) for _ in range(3)]
    other = builder.input(shape)
    value = builder.emit(ew.Add(), builder.emit(Attention(0.25), *inputs), other)
    check([builder.build([builder.emit(Transpose((0, 2, 1, 3)), value)])])


def test_random_attention() -> None:
    found = [i for i in sample(instances(Attention), 40) if i.types[0].dtype is not DType.F64]
    bodies = [single(item.op, item.types) for item in found]
    kernels = Loaded(bodies)
    assert set(kernels.templates) == {"attention/1"}
    for number, (item, body) in enumerate(zip(found, bodies, strict=True)):
        (actual,), (wanted,) = kernels(number, item.inputs()), run_graph(body, item.inputs())
        tolerance = closeness(item.types[0].dtype, 200)
        text = str(item)
        torch.testing.assert_close(
            actual, wanted, equal_nan=True, **tolerance, msg=lambda m, i=text: f"{i}: {m}"
        )


@pytest.mark.parametrize("target", ["aarch64", "armv7"])
def test_arm_compiles(target: str) -> None:
    machine = find_target(target)
    body = heads((1, 2, 20, 16), (1, 2, 24, 16), 16, causal=True)
    plan = Template().match(Problem(body, frozenset(), machine))
    assert isinstance(plan, AttentionPlan)
    emitted = plan.emit("k", plan.candidates()[0])
    assert compile_functions([emitted.function], machine).data[:4] == b"\x7fELF"


def test_wide_floats_go_elsewhere() -> None:
    body = heads((2, 4, 4), (2, 4, 4), 4, dtype=DType.F64)
    assert isinstance(Template().match(Problem(body, frozenset(), host())), Miss)


def test_a_packed_mask_is_its_transpose() -> None:
    mask = torch.arange(12.0).reshape(1, 3, 4).numpy()
    pack = MaskPack(8)
    packed = pack(mask)
    assert packed.shape == pack.type(TensorType(mask.shape, F32)).shape == (1, 4, 8)
    assert (packed[0, :, :3] == mask[0].T).all()
    assert not packed[0, :, 3:].any()
