"""Elementary functions against numpy in f64: units in the last place, over all magnitudes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import special

from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.ops import Op, ew
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.loaded import Loaded

COUNT = 1 << 15
SPECIAL = np.array(
    [0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-40, 1.2e-38, 3e38, -3e38, 88.72,
     88.73, -87.3, -103.0, -104.5, 0.5, -0.5, 2, 3, 4, 8, 1e10, -1e12],
    np.float32,
)  # fmt: skip
Exact = Callable[..., NDArray[np.float64]]
# Exact function, range of uniform samples, allowed units in the last place.
FUNCTIONS: Mapping[Op, tuple[Exact, tuple[float, float], float]] = {
    ew.Exp(): (np.exp, (-106, 90), 1.0),
    ew.Expm1(): (np.expm1, (-30, 90), 2.0),
    ew.Log(): (np.log, (0, 100), 1.0),
    ew.Log2(): (np.log2, (0, 100), 2.0),
    ew.Log10(): (np.log10, (0, 100), 2.0),
    ew.Log1p(): (np.log1p, (-1, 100), 2.0),
    ew.Sigmoid(): (special.expit, (-80, 80), 3.0),
    ew.Tanh(): (np.tanh, (-10, 10), 3.0),
    ew.Sinh(): (np.sinh, (-92, 92), 3.0),
    ew.Cosh(): (np.cosh, (-92, 92), 3.0),
    ew.Asinh(): (np.arcsinh, (-100, 100), 4.0),
    ew.Acosh(): (np.arccosh, (0.5, 100), 4.0),
    ew.Atanh(): (np.arctanh, (-1, 1), 4.0),
    ew.Erf(): (special.erf, (-5, 5), 2.0),
    ew.Sin(): (np.sin, (-100, 100), 2.0),
    ew.Cos(): (np.cos, (-100, 100), 2.0),
    ew.Tan(): (np.tan, (-100, 100), 4.0),
    ew.Atan(): (np.arctan, (-100, 100), 2.0),
    ew.Asin(): (np.arcsin, (-1.1, 1.1), 3.0),
    ew.Acos(): (np.arccos, (-1.1, 1.1), 3.0),
}
_CIRCULAR = (ew.Sin, ew.Cos, ew.Tan)


def _samples(op: Op, low: float, high: float) -> NDArray[np.float32]:
    """Special values, then uniform ones, then all magnitudes down to the smallest."""
    generator = np.random.default_rng(3)
    count = (COUNT - len(SPECIAL)) // 2
    uniform = generator.uniform(low, high, count)
    magnitudes = np.exp(generator.uniform(np.log(1e-44), np.log(max(-low, high)), count))
    signs = generator.choice([-1, 1], count) if low < 0 else 1
    special_values = SPECIAL
    if isinstance(op, _CIRCULAR):
        magnitudes[: count // 2] = generator.uniform(-1e14, 1e14, count // 2)
        special_values = np.clip(SPECIAL, -1e14, 1e14)
    return np.concatenate([special_values, uniform, magnitudes * signs]).astype(np.float32)


def _distance(got: NDArray[np.float32], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """Units in the last place; infinite where one is nan or infinite and the other is not."""
    rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded) & np.isfinite(got)
    units = np.where(finite, np.abs(got.astype(np.float64) - exact), 0.0)
    units[finite] /= np.spacing(np.abs(rounded[finite])).astype(np.float64)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return np.where(finite | same, units, np.inf)


def _loaded(ops: list[Op], inputs: int, size: int, target: str) -> Loaded:
    bodies = []
    for op in ops:
        builder = Builder("body")
        values = [builder.input(TensorType((size,), DType.F32)) for _ in range(inputs)]
        bodies.append(builder.build([builder.emit(op, *values)]))
    return Loaded(bodies, target=find_target(target))


@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64-v2"])
def test_functions_are_within_their_units(target: str) -> None:
    samples = {op: _samples(op, *bounds) for op, (_, bounds, _) in FUNCTIONS.items()}
    size = len(next(iter(samples.values())))
    loaded = _loaded(list(FUNCTIONS), 1, size, target)
    for number, (op, (exact, _, allowed)) in enumerate(FUNCTIONS.items()):
        x = samples[op]
        (got,) = loaded(number, [torch.from_numpy(x)])
        with np.errstate(all="ignore"):
            units = _distance(got.numpy(), exact(x.astype(np.float64)))
        worst = int(units.argmax())
        assert units[worst] <= allowed, f"{op} of {x[worst]!r} is {got[worst]} on {target}"


@pytest.mark.parametrize("target", ["host", "x86-64-v2"])
def test_gelu_is_absolutely_exact(target: str) -> None:
    x = _samples(ew.Gelu(), -10, 10)
    loaded = _loaded([ew.Gelu(), ew.Gelu(tanh=True)], 1, len(x), target)
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        inner = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
        wanted = [wide * special.ndtr(wide), 0.5 * wide * (1 + np.tanh(inner))]
    for number, exact in enumerate(wanted):
        (got,) = loaded(number, [torch.from_numpy(x)])
        finite = np.isfinite(exact) & (np.abs(wide) < 1e6)
        error = np.abs(got.numpy()[finite] - exact[finite]) / np.maximum(1, np.abs(exact[finite]))
        assert error.max() < 2.5e-7
        assert np.isnan(got.numpy()[np.isnan(x)]).all()


def _pairs() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    edges = np.array(
        [0, -0.0, 1, -1, 2, -2, 0.5, np.inf, -np.inf, np.nan, 3, -3, 1e-45, 3e38, -8, 1 / 3, 2.5,
         -2.5, 7, -7, 1e10, -1e10],
        np.float32,
    )  # fmt: skip
    a, b = (grid.ravel() for grid in np.meshgrid(edges, edges))
    generator = np.random.default_rng(5)
    bases = np.exp(generator.uniform(-80, 80, COUNT))
    return (
        np.concatenate([a, bases, generator.uniform(0, 3, COUNT)]).astype(np.float32),
        np.concatenate([b, generator.uniform(-30, 30, 2 * COUNT)]).astype(np.float32),
    )


def test_power_and_angle_also_at_the_edges() -> None:
    a, b = _pairs()
    loaded = _loaded([ew.Pow(), ew.Atan2()], 2, len(a), "host")
    for number, (exact, allowed) in enumerate([(np.power, 1.0), (np.arctan2, 3.0)]):
        (got,) = loaded(number, [torch.from_numpy(a), torch.from_numpy(b)])
        with np.errstate(all="ignore"):
            units = _distance(got.numpy(), exact(a.astype(np.float64), b.astype(np.float64)))
        worst = int(units.argmax())
        assert units[worst] <= allowed, f"{exact} of {a[worst]!r} and {b[worst]!r}: {got[worst]}"
