"""Observers against what they promise, measured on the numbers themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from optc.backends.reference.spread import Spread
from optc.ir.dtype import DType
from optc.passes.precision.affine import affine
from optc.passes.precision.observe import Observer, observed

MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def numbers(draw: st.DrawFn) -> NDArray[np.float32]:
    """Bells, long tails, ramps cut at zero, with outliers or without, of any size and place."""
    source = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    kind = draw(st.sampled_from(("normal", "laplace", "exponential", "uniform")))
    count = draw(st.sampled_from((1, 7, 400, 20_000)))
    x = getattr(source, kind)(size=count) * draw(st.sampled_from((1e-3, 1.0, 70.0)))
    x = x + draw(st.sampled_from((0.0, 0.0, 5.0))) * x.std()
    x = np.maximum(x, 0) if draw(st.booleans()) else x
    if draw(st.booleans()):
        x[0] *= 30
    return x.astype(np.float32)


def statistics(x: NDArray[np.float32]):  # type: ignore[no-untyped-def]
    """What calibration would say of the numbers."""
    spread = Spread()
    spread.add(x)
    return spread.statistics()


def error(x: NDArray[np.float32], bounds: tuple[float, float]) -> float:
    """The mean squared error of 8 bits over a range."""
    found = affine(*bounds, DType.U8)
    q = np.clip(np.rint(x / found.scale) + found.zero, 0, 255)
    return float(np.mean(((q - found.zero) * found.scale - x) ** 2))


@MANY
@given(numbers())
def test_minmax_is_what_was_seen(x: NDArray[np.float32]) -> None:
    found = observed(statistics(x), Observer.MINMAX, 0.1, 256)
    assert found == (float(x.min()), float(x.max()))


@MANY
@given(numbers(), st.sampled_from((0.0, 1e-4, 0.01, 0.2)))
def test_a_percentile_leaves_out_its_share(x: NDArray[np.float32], share: float) -> None:
    low, high = observed(statistics(x), Observer.PERCENTILE, share, 256)
    width = 2 * statistics(x).reach / 8192
    assert low <= high
    assert np.mean(x > high + width) <= share + 1e-9
    assert np.mean(x < low - width) <= share + 1 / len(x)
    assert np.mean(x > high - width) >= min(share, 1 / len(x))


@MANY
@given(numbers())
def test_the_least_error_is_no_more_than_that_of_the_whole_range(x: NDArray[np.float32]) -> None:
    found = statistics(x)
    best, whole = (observed(found, kind, 0.0, 256) for kind in (Observer.MSE, Observer.MINMAX))
    assert whole[0] <= best[0] <= best[1] <= whole[1]
    # The model of the error is one of many elements: a step of the few there are is its noise.
    noise = (affine(*whole, DType.U8).scale ** 2) / 6
    assert error(x, best) <= error(x, whole) + noise


def test_an_outlier_is_cut_off_where_that_pays() -> None:
    x = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    x[0] = 30.0
    low, high = observed(statistics(x), Observer.MSE, 0.0, 256)
    assert high < 20
    assert error(x, (low, high)) < 0.7 * error(x, (float(x.min()), 30.0))


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8, DType.I4])
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-1.0, 3.0), (2.0, 5.0), (-9.0, -4.0)])
def test_zero_is_a_number_of_the_grid(dtype: DType, low: float, high: float) -> None:
    found = affine(low, high, dtype)
    assert found.of(0.0) == found.zero
    for bound in (low, high):
        assert abs((found.of(bound) - found.zero) * found.scale - bound) <= 0.51 * found.scale
