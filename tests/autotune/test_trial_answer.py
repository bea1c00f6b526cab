"""What the measuring program writes is read, whole or cut short; results are compared."""

from __future__ import annotations

import struct
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optc.autotune.trial_answer import Exit, read_answer
from optc.autotune.trial_compare import TOLERANCE, Agreement, same
from optc.backends.program import Port
from optc.ir.dtype import DType

PORT = Port("y0", (4,), DType.F32)
VALUES = np.array([1.0, -2.0, 3.0, 0.5], np.float32)


def entry(kind: bytes, candidate: int, payload: bytes = b"") -> bytes:
    return struct.pack("=ci", kind, candidate) + payload


WHOLE = (
    entry(b"B", 0)
    + entry(b"O", 0, VALUES.tobytes())
    + entry(b"B", 1)
    + entry(b"O", 1, VALUES.tobytes())
    + b"".join(
        entry(b"B", i) + entry(b"T", i, struct.pack("=Q", 1000 * (i + 1))) for i in (0, 1, 0, 1)
    )
    + entry(b"E", 0)
)


def test_an_answer_is_taken_apart() -> None:
    answer = read_answer(WHOLE, [PORT])
    assert answer.finished
    assert answer.outputs == {0: VALUES.tobytes(), 1: VALUES.tobytes()}
    assert answer.seconds == {0: pytest.approx([1e-6, 1e-6]), 1: pytest.approx([2e-6, 2e-6])}


@given(st.integers(0, len(WHOLE) - 1))
def test_an_answer_that_is_cut_short_gives_what_is_whole(length: int) -> None:
    answer = read_answer(WHOLE[:length], [PORT])
    assert not answer.finished
    assert all(len(data) == PORT.nbytes for data in answer.outputs.values())
    assert answer.running in (None, 0, 1)


@given(st.binary(max_size=200))
def test_nonsense_is_no_answer(data: bytes) -> None:
    answer = read_answer(data, [PORT])
    assert all(len(found) == PORT.nbytes for found in answer.outputs.values())


@pytest.mark.parametrize(
    ("exit", "reason"),
    [
        (Exit(0, b""), ""),
        (Exit(-11, b"", "noise"), "killed by signal 11"),
        (Exit(3, b""), "exit status 3"),
        (Exit(1, b"", "kernel k failed"), "kernel k failed"),
        (Exit(None, b"", "", 10.0), "no answer in 10 s"),
    ],
)
def test_reasons(exit: Exit, reason: str) -> None:
    assert exit.reason == reason


def result(values: np.ndarray, dtype: DType = DType.F32) -> tuple[list[Port], bytes]:
    return [Port("y", values.shape, dtype)], values.tobytes()


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=20), st.randoms())
def test_floats_agree_within_a_share_of_their_range(values: list[float], random: Random) -> None:
    array = np.array(values, np.float32)
    span = max(np.ptp(array), np.abs(array).max(), 1e-3)
    place = random.randrange(array.size)
    for share, agree in ((0.1, True), (10.0, False)):
        other = array.copy()
        other[place] += np.float32(share * TOLERANCE[DType.F32] * span)
        ports, data = result(array)
        if not agree or span > 1e-3:
            assert same(ports, data, other.tobytes()) is agree


def test_what_is_not_finite_must_be_equal() -> None:
    strange = np.array([1, np.nan, np.inf, -np.inf], np.float32)
    ports, data = result(strange)
    assert same(ports, data, strange.copy().tobytes())
    assert same(ports, data, np.array([1.00001, np.nan, np.inf, -np.inf], np.float32).tobytes())
    assert not same(ports, data, np.array([1, np.nan, np.inf, np.inf], np.float32).tobytes())
    assert not same(ports, data, np.array([1, 0, np.inf, -np.inf], np.float32).tobytes())


def test_whole_numbers_agree_exactly() -> None:
    ports, data = result(np.array([1, 1 << 30], np.int32), DType.I32)
    assert same(ports, data, data)
    assert not same(ports, data, np.array([1, (1 << 30) + 1], np.int32).tobytes())


def test_half_precision_has_its_own_tolerance() -> None:
    ports, data = result(np.array([0x3F80, 0x4000], np.uint16), DType.BF16)  # 1, 2
    assert same(ports, data, np.array([0x3F81, 0x4001], np.uint16).tobytes())
    assert not same(ports, data, np.array([0x3F80, 0x4080], np.uint16).tobytes())  # 1, 4


def test_the_largest_group_is_believed_and_the_first_of_equals() -> None:
    right, wrong = VALUES.tobytes(), (VALUES + 1).tobytes()
    few = Agreement([PORT])
    for candidate, data in enumerate([wrong, right, right]):
        few.add(candidate, data)
    assert few.wrong() == {0}
    tie = Agreement([PORT])
    for candidate, data in enumerate([right, wrong]):
        tie.add(candidate, data)
    assert tie.wrong() == {1}
    assert Agreement([PORT]).wrong() == frozenset()
