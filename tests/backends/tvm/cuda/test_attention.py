"""Attention in one launch: every tile, masks, causal, grouped queries, merged projections."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from optc.backends.aot.nvrtc import find_device_compiler
from optc.backends.device import PREAMBLE
from optc.backends.kernel import Job
from optc.backends.program import DeviceCode
from optc.backends.reference.evaluate import run_graph
from optc.backends.tvm.cuda import attention
from optc.backends.tvm.cuda.attention_products import Tiles
from optc.backends.tvm.cuda.kernel import build
from optc.backends.tvm.templates.plan import Miss
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.targets.find import find_target
from tests.backends.cuda_emulator import Order
from tests.backends.tvm.cuda.launched import Launched
from tests.backends.tvm.test_attention import heads, inputs_of, merged, wanted_dtype
from tests.strategies.values import closeness

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the emulator switches stacks on x86-64 only"
)
A100 = find_target("cuda-sm_80")


def check(bodies: list[Graph], launches: int = 1) -> None:
    kernels = Launched(bodies, A100)
    for number, body in enumerate(bodies):
        assert len(kernels.kernels[number].launches) == launches
        inputs = inputs_of(body, number)
        (wanted,) = run_graph(body, inputs)
        for order in Order:
            (found,) = kernels(number, inputs, order)
            torch.testing.assert_close(found, wanted, **closeness(wanted_dtype(body), 40))


@pytest.mark.parametrize("dtype", [DType.F16, DType.F32], ids=str)
def test_masks_and_shapes(dtype: DType) -> None:
    q, k = (2, 3, 18, 8), (2, 3, 21, 8)
    check(
        [
            heads((3, 16, 7), (3, 18, 7), 5, dtype=dtype),
            heads((1, 6, 20, 16), (1, 2, 20, 16), 16, causal=True, dtype=dtype),
            heads((1, 1, 70, 64), (1, 1, 150, 64), 64, causal=True, dtype=dtype),
            heads(q, k, 16, mask=(2, 1, 18, 21), dtype=dtype),
            heads(q, k, 16, mask=(1, 1, 1, 21), hides=True, dtype=dtype),
        ]
    )


def test_bf16_and_heads_where_a_merged_projection_left_them() -> None:
    check([heads((1, 2, 37, 32), (1, 2, 37, 32), 32, dtype=DType.BF16), merged(2, 19, 3, 16)])


@pytest.mark.parametrize("dtype", [DType.F16, DType.F32], ids=str)
def test_every_tile(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    options = attention._SINGLES if dtype is DType.F32 else attention._HALVES
    # Heads of other widths are other kernels.
    bodies = {
        option: heads((1, 1, 69, 24), (1, 1, 70, 24), 8 + n, causal=True, dtype=dtype)
        for n, option in enumerate(options)
    }
    chosen = {8 + n: option for n, option in enumerate(options)}

    def tiles(anchor, target) -> Tiles:  # type: ignore[no-untyped-def]
        width = anchor.inputs[2].shape[-1]
        return Tiles(*chosen[width], 24, width, dtype.nbytes(1), dtype is not DType.F32)

    monkeypatch.setattr(attention, "tiles_of", tiles)
    check(list(bodies.values()))


def test_a_row_that_sees_nothing_is_zero() -> None:
    body = heads((1, 1, 16, 16), (1, 1, 16, 16), 16, mask=(16, 16), hides=True, dtype=DType.F16)
    inputs = inputs_of(body)
    inputs[3][5] = False
    (found,) = Launched([body], A100)(0, inputs)
    assert (found[0, 0, 5] == 0).all()
    assert (found[0, 0, 4] != 0).any()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (heads((1, 2, 1, 32), (1, 2, 64, 32), 32), "1 queries and 64 keys"),
        (heads((1, 2, 64, 256), (1, 2, 64, 256), 256), "256 and 256 columns"),
    ],
)
def test_what_is_not_taken_says_why(body: Graph, reason: str) -> None:
    (anchor,) = body.nodes
    found = attention.tiles_of(anchor, A100)
    assert isinstance(found, Miss)
    assert reason in found.reason


def test_small_grids_take_few_rows_at_a_time() -> None:
    (one,) = heads((1, 12, 128, 64), (1, 12, 128, 64), 64, dtype=DType.F16).nodes
    (many,) = heads((32, 12, 512, 64), (32, 12, 512, 64), 64, dtype=DType.F16).nodes
    few, most = attention.tiles_of(one, A100), attention.tiles_of(many, A100)
    assert isinstance(few, Tiles)
    assert isinstance(most, Tiles)
    assert few.rows < most.rows == 64


@pytest.mark.needs("package:nvidia")
def test_both_products_are_on_tensor_cores_and_nothing_spills(tmp_path: Path) -> None:
    shapes = [(1, 12, 512, depth) for depth in (64, 128)]
    bodies = [heads(shape, shape, shape[-1], dtype=DType.F16) for shape in shapes]
    bodies.append(heads((1, 12, 512, 64), (1, 12, 512, 64), 64))
    sources = [build(Job(body, frozenset()), A100).source for body in bodies]
    code = DeviceCode("sm_80", "\n".join([PREAMBLE, *sources]))
    ptx = find_device_compiler().compile(code).ptx.decode()
    entries = ptx.split(".entry ")[1:]
    counts = [entry.count("mma.sync.aligned.m16n8k16") for entry in entries]
    assert min(counts[:2]) > 0
    assert counts[2] == 0
    assert all("cp.async" in entry for entry in entries)
    if not (ptxas := shutil.which("ptxas")):
        return
    (tmp_path / "k.ptx").write_text(ptx)
    command = (ptxas, "-v", "-arch=sm_80", "k.ptx", "-o", "k.cubin")
    log = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert spills == [("0", "0")] * len(sources)
