"""Products on tensor cores: exact for bytes, within the error of f32 sums for halves.

The emulator multiplies fragments as the PTX ISA lays them out, lane by lane, and lets asynchronous
copies arrive at the latest or at the earliest moment, by the order in which threads start.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from optc.backends.aot.nvrtc import find_device_compiler
from optc.backends.device import PREAMBLE
from optc.backends.kernel import Job
from optc.backends.program import DeviceCode
from optc.backends.tvm.cuda.contraction import contraction_of
from optc.backends.tvm.cuda.kernel import CudaKernel, build
from optc.backends.tvm.cuda.task import Task
from optc.backends.tvm.cuda.tensor_cores import TensorPlan, plan_of
from optc.backends.tvm.cuda.tensor_tiles import TILES, MatrixTile, Problem, choose, cycles
from optc.backends.tvm.templates.plan import Miss
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Conv, Linear, MatMul, Quantize, Requantize, ew
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.cuda_emulator import Order
from tests.backends.tvm.cuda.launched import Launched
from tests.backends.tvm.templates.agreement import Case, body
from tests.strategies.instances import sample

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the emulator switches stacks on x86-64 only"
)
A100, T4 = find_target("cuda-sm_80"), find_target("cuda-sm_75")
HALVES, BYTES = (DType.F16, DType.BF16), (DType.I8, DType.U8)
EXAMPLES = 12


def linear(b: Builder, x: Value, w: Value, bias: Value) -> Value:
    return b.emit(Linear(), x, w, bias)


def types(dtype: DType, *shapes: tuple[int, ...]) -> list[TensorType]:
    return [TensorType(shape, dtype) for shape in shapes]


@dataclass(frozen=True)
class Product:
    """A product of matrices with a batch, as MatMul takes them."""

    dtypes: tuple[DType, DType]
    batch: int
    m: int
    n: int
    k: int
    transpose_b: bool

    @property
    def case(self) -> Case:
        b = (self.n, self.k) if self.transpose_b else (self.k, self.n)
        shapes = (self.batch, self.m, self.k), (self.batch, *b)
        inputs = [TensorType(s, d) for s, d in zip(shapes, self.dtypes, strict=True)]
        return body(inputs, lambda e, x, y: e.emit(MatMul(transpose_b=self.transpose_b), x, y))

    def check(self, inputs: list[torch.Tensor], found: torch.Tensor) -> None:
        a, b = (tensor.double().numpy() for tensor in inputs)
        b = b.swapaxes(-1, -2) if self.transpose_b else b
        exact, size = a @ b, np.abs(a) @ np.abs(b)
        ours = found.double().numpy()
        if self.dtypes[0] in BYTES:
            assert np.array_equal(ours, exact), self
            return
        digits = 2.0 ** (-11 if self.dtypes[0] is DType.F16 else -8)
        error = digits * np.abs(exact) + self.k * 2.0**-23 * size
        assert (np.abs(ours - exact) <= error).all(), self


def products(dtypes: tuple[tuple[DType, DType], ...]) -> st.SearchStrategy[Product]:
    extents = st.one_of(st.integers(8, 150), st.sampled_from([16, 32, 64, 96, 128]))
    depths = st.one_of(st.integers(8, 90), st.sampled_from([8, 24, 36, 64, 100, 128]))
    return st.builds(
        Product, st.sampled_from(dtypes), st.integers(1, 2), extents, extents, depths, st.booleans()
    )


@pytest.mark.parametrize("target", [A100, T4], ids=lambda target: target.cpu)
def test_products_of_any_extents(target) -> None:  # type: ignore[no-untyped-def]
    pairs = [(a, b) for a in BYTES for b in BYTES] + [(d, d) for d in HALVES]
    drawn = sample(products(tuple(pairs)), EXAMPLES)
    kernels = Launched([product.case.body for product in drawn], target)
    for number, product in enumerate(drawn):
        missed = target is T4 and DType.BF16 in product.dtypes
        assert ("optc_product" in kernels.kernels[number].source) is not missed
        inputs = product.case.inputs(number)
        for order in Order:
            (found,) = kernels(number, inputs, order)
            product.check(inputs, found)


def gelu_add(b: Builder, x: Value, w: Value, bias: Value, other: Value) -> Value:
    """A prologue, and an epilogue that reads other memory."""
    product = b.emit(Linear(), b.emit(ew.Relu(), x), w, bias)
    return b.emit(ew.Add(), b.emit(ew.Gelu(), product), other)


def quantized(b: Builder, x: Value, s: Value, z: Value, w: Value, m: Value, n: Value) -> Value:
    """What quantization makes of a linear layer: bytes in, bytes out."""
    q = b.emit(Quantize(DType.I8), x, s, z)
    return b.emit(Requantize(DType.I8), b.emit(Linear(), q, w), m, n)


def conv(op: Conv):  # type: ignore[no-untyped-def]
    return lambda b, x, w: b.emit(ew.Relu(), b.emit(op, x, w))


SAME = ((1, 1), (1, 1))
LAST = Conv(padding=SAME, channels_last=True)
FUSED: dict[str, Case] = {
    "epilogue": body(
        types(DType.F16, (40, 64), (48, 64), (48,), (40, 48)), gelu_add, constants=[1, 2]
    ),
    "bf16": body(types(DType.BF16, (37, 51), (33, 51), (33,), (37, 33)), gelu_add),
    "quantized": body(
        [
            TensorType((19, 40), DType.F32),
            *(TensorType((), DType.F32), TensorType((), DType.I8)),
            TensorType((36, 40), DType.I8),
            *(TensorType((), DType.F32), TensorType((), DType.I8)),
        ],
        quantized,
    ),
    "bools": body(
        types(DType.F16, (20, 24), (16, 24), (16,), (20, 16)),
        lambda b, x, w, c, y: b.emit(ew.Less(), linear(b, x, w, c), b.emit(ew.Abs(), y)),
    ),
    "split": body(types(DType.F16, (30, 2049), (26, 2049), (26,)), linear),
    "conv": body(
        types(DType.F16, (2, 12, 11, 13), (24, 12, 3, 3)),
        conv(Conv(stride=(2, 1), padding=((1, 1), (0, 2)))),
    ),
    "channels last": body(types(DType.BF16, (1, 11, 9, 16), (24, 16, 3, 3)), conv(LAST)),
    "pointwise": body(
        types(DType.F16, (2, 7, 9, 24), (40, 24, 1, 1)), conv(Conv(channels_last=True))
    ),
    "bytes": body(types(DType.I8, (2, 12, 11, 13), (24, 12, 3, 3)), conv(Conv(padding=SAME))),
    "bytes, channels last": body(types(DType.I8, (1, 9, 8, 32), (24, 32, 3, 3)), conv(LAST)),
}


# Parts are summed by a launch of their own; to quantize is dear, and not done once for each column.
LAUNCHES = {"split": 2, "quantized": 2}


def test_what_is_fused_around_products() -> None:
    kernels = Launched([case.body for case in FUSED.values()], A100)
    for number, (name, case) in enumerate(FUSED.items()):
        assert "optc_product" in kernels.kernels[number].source, name
        assert len(kernels.kernels[number].launches) == LAUNCHES.get(name, 1), name
        for order in Order:
            case.compare(number, kernels(number, case.inputs(number), order), name)
        case.compare(number, kernels(number, case.inputs(number), shift=8), f"{name}, shifted")


def test_every_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    cases, bodies = [], []
    for number, tile in enumerate(TILES):
        dtype = (DType.F16, DType.I8)[number % 2]
        m, n = tile.m + 5 * (number % 3), tile.n + 3
        wide = DType.I32 if dtype is DType.I8 else dtype
        inputs = [*types(dtype, (m, 72), (n, 72)), TensorType((n,), wide)]
        cases.append(body(inputs, linear))
        bodies.append((cases[-1].body, tile))
    kernels: list[CudaKernel] = []

    def build_with(job: Job, target) -> CudaKernel:  # type: ignore[no-untyped-def]
        tile = next(tile for body, tile in bodies if body is job.body)
        monkeypatch.setattr("optc.backends.tvm.cuda.tensor_cores.choose", lambda *_: (tile, 1))
        kernels.append(build(job, target))
        return kernels[-1]

    monkeypatch.setattr("tests.backends.tvm.cuda.launched.build", build_with)
    launched = Launched([case.body for case in cases], A100)
    for number, (case, tile) in enumerate(zip(cases, TILES, strict=True)):
        (launch,) = kernels[number].launches
        assert launch.block == (tile.threads, 1, 1)
        order = list(Order)[number % 2]
        case.compare(number, launched(number, case.inputs(number), order), str(tile))


def plan(case: Case, target=A100) -> TensorPlan | Miss:  # type: ignore[no-untyped-def]
    (step,) = Task(case.body, "probe").steps()
    contraction = contraction_of(step)
    assert contraction is not None
    return plan_of(contraction, target)


def test_neighbours_in_memory_are_copied_in_vectors() -> None:
    found = plan(body(types(DType.F16, (64, 64), (64, 80)), lambda b, x, y: b.emit(MatMul(), x, y)))
    assert isinstance(found, TensorPlan)
    assert [layout.vector for layout in found.layouts] == [8, 8]
    assert [layout.turned for layout in found.layouts] == [False, True]
    found = plan(body(types(DType.F16, (64, 36), (64, 36), (64,)), linear))
    assert isinstance(found, TensorPlan)
    assert [layout.vector for layout in found.layouts] == [4, 4]
    found = plan(FUSED["channels last"])
    assert isinstance(found, TensorPlan)
    assert found.layouts[0].vector == 8  # the image: channels go innermost
    assert found.order == (1, 2, 0)


@pytest.mark.parametrize(
    ("case", "target", "reason"),
    [
        (body(types(DType.F32, (64, 64), (64, 64), (64,)), linear), A100, "a factor is float32"),
        (body(types(DType.BF16, (64, 64), (64, 64), (64,)), linear), T4, "capability 8.0"),
    ],
)
def test_what_tensor_cores_do_not_take_says_why(case: Case, target, reason: str) -> None:  # type: ignore[no-untyped-def]
    found = plan(case, target)
    assert isinstance(found, Miss)
    assert reason in found.reason


def test_the_model_prefers_what_it_should() -> None:
    large, small = Problem(1, 4096, 4096, 4096, 2), Problem(1, 64, 64, 512, 2)
    deep = Problem(1, 64, 64, 1 << 15, 2)
    assert choose(large, A100) == (TILES[0], 1)
    tile, _ = choose(small, A100)
    assert tile.m * tile.n < 64 * 64
    assert choose(deep, A100)[1] > 1
    assert choose(large, A100)[1] == 1
    bare = MatrixTile(128, 128, 64, 64, stages=2)
    assert cycles(large, bare, 1, A100) < 2 * large.rows * large.columns * 4096 / 1024 / 108


INSTRUCTIONS = {
    "sm_75": {
        "f16": ("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32",),
        "i8": ("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32",),
    },
    "sm_80": {
        "f16": ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "cp.async.cg.shared.global"),
        "bf16": ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",),
        "i8": ("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", "cp.async.wait_group"),
    },
}
INSTRUCTIONS["sm_90"] = INSTRUCTIONS["sm_80"]


@pytest.mark.needs("package:nvidia")
@pytest.mark.parametrize("architecture", INSTRUCTIONS)
def test_the_instructions_are_there_and_nothing_spills(architecture: str, tmp_path: Path) -> None:
    target = find_target(f"cuda-{architecture}")
    names = {"f16": DType.F16, "bf16": DType.BF16, "i8": DType.I8}
    sources = []
    for name in INSTRUCTIONS[architecture]:
        bias = DType.I32 if name == "i8" else names[name]
        inputs = [*types(names[name], (2048, 512), (2048, 512)), TensorType((2048,), bias)]
        kernel = build(Job(body(inputs, linear).body, frozenset()), target)
        sources.append(kernel.source)
    code = DeviceCode(architecture, "\n".join([PREAMBLE, *sources]))
    ptx = find_device_compiler().compile(code).ptx.decode()
    assert "ldmatrix.sync.aligned.m8n8.x4.shared.b16" in ptx
    for instructions in INSTRUCTIONS[architecture].values():
        for instruction in instructions:
            assert instruction in ptx, instruction
    if not (ptxas := shutil.which("ptxas")):
        return
    (tmp_path / "k.ptx").write_text(ptx)
    command = (ptxas, "-v", f"-arch={architecture}", "k.ptx", "-o", "k.cubin")
    log = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert spills == [("0", "0")] * len(sources)
