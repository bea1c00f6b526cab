"""The last columns of products: taken apart along K they are the same sums, and no other's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.dot import Words
from optc.backends.tvm.templates.gemm import GemmPlan
from optc.backends.tvm.templates.panel_pack import PanelPack
from optc.backends.tvm.templates.plan import Problem
from optc.backends.tvm.templates.tail import Tail
from optc.ir.dtype import DType
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.bytes import I8, U8
from tests.backends.tvm.bytes import check as check_bytes
from tests.backends.tvm.loaded import Loaded
from tests.backends.tvm.templates.agreement import Case, check
from tests.backends.tvm.templates.test_byte_products import linear as bytes_linear
from tests.backends.tvm.templates.test_gemm import linear

# Rows in one strip and several, of one height and two; all columns but the tail, and none; K in
# whole vectors and not.
SHAPES = ((16, 17, 17), (31, 100, 100), (9, 20, 67), (40, 1, 130), (12, 24, 64), (70, 39, 33))


def tail_of(case: Case, target: str) -> Tail | None:
    """What the best guess for a target does with the last columns."""
    machine = replace(find_target(target), cores=2)
    plan, _ = match(Problem(case.body, case.constants, machine))
    assert isinstance(plan, GemmPlan)
    return plan.shape.tail(plan.candidates()[0])


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("epilogue", ["", "gelu residual", "heads"])
def test_tails_of_floats(dtype: DType, epilogue: str) -> None:
    shapes = [shape for shape in SHAPES if epilogue != "heads" or shape[1] % 2 == 0]
    cases = [linear(*shape, dtype, epilogue) for shape in shapes]
    for choice in (0, 3):
        check(cases, choice=choice)


@pytest.mark.parametrize("target", ["host", "x86-64-v3"])
def test_tails_of_bytes_and_of_shorter_vectors(target: str) -> None:
    machine = find_target(target)
    check_bytes([bytes_linear(*shape, kind) for shape in SHAPES for kind in (U8, I8)], machine)
    check([linear(*shape) for shape in SHAPES], machine)


@pytest.mark.parametrize(
    ("shape", "target", "group"),
    [
        ((31, 100, 100), "znver5", 4),
        ((16, 17, 17), "znver5", 16),
        ((31, 100, 100), "x86-64-v3", 2),
        ((16, 16, 17), "znver5", None),  # no columns are left
        ((16, 31, 17), "znver5", None),  # too many are
        ((1, 17, 17), "znver5", None),  # adding up costs more than it saves
        ((16, 1000, 192), "znver5", None),  # half of one vector of 63 is little
        ((31, 100, 100), "x86-64-v2", None),
        ((31, 100, 100), "neoverse-v1", None),
    ],
)
def test_who_has_a_tail(shape: tuple[int, int, int], target: str, group: int | None) -> None:
    found = tail_of(linear(*shape), target)
    assert (found.group if found else None) == group


def test_numbers_of_another_row_do_no_harm() -> None:
    """A vector of a row's words ends where the row ends: infinity times no weight is no number."""
    case = linear(16, 17, 17, bias=False)
    assert tail_of(case, "znver5") is not None
    inputs = case.inputs(0)
    inputs[0][0, 1::2] = np.inf
    (found,) = Loaded([case.body], [case.constants])(0, inputs)
    assert found[0, ::2].isfinite().all()


@given(st.integers(1, 8), st.integers(1, 70), st.integers(1, 40), st.booleans())
def test_panels_and_tail_hold_every_weight_once(
    columns: int, k: int, n: int, transposed: bool
) -> None:
    tail = Tail(columns, 16 >> (columns - 1).bit_length(), 16)
    n = n // 16 * 16 + columns
    pack = PanelPack(32, 16, transposed, Words(DType.F32), tail)
    weights = np.arange(1, n * k + 1, dtype=np.float32).reshape((n, k) if transposed else (k, n))
    packed = pack(weights)
    assert packed.shape == pack.type(TensorType(weights.shape, DType.F32)).shape
    assert sorted(packed[packed != 0]) == list(range(1, n * k + 1))
