"""Bodies of tasks, seeded inputs for them, and comparison of kernels with the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.backends.reference.evaluate import run_graph
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.targets.target import Target
from optc.ir.types import TensorType
from tests.backends.tvm.loaded import Loaded

# Largest difference, as a part of the largest element of the result.
TOLERANCE = {DType.F64: 1e-13, DType.F32: 3e-6, DType.F16: 3e-3, DType.BF16: 2e-2}


@dataclass(frozen=True)
class Case:
    """A body, and which of its inputs are constants."""

    body: Graph
    constants: frozenset[int] = frozenset()

    def inputs(self, seed: int) -> list[Tensor]:
        """Numbers for every input, the constant ones too."""
        return [numbers(v.type, 7 * seed + i) for i, v in enumerate(self.body.inputs)]

    def compare(self, seed: int, found: Sequence[Tensor], place: str) -> None:
        """Assert that outputs for `inputs(seed)` are those of the reference."""
        wanted = run_graph(self.body, self.inputs(seed))
        for value, got, right in zip(self.body.outputs, found, wanted, strict=True):
            assert_close(value, got, right, place)


def body(
    types: Sequence[TensorType], make: Callable[..., Value], constants: Sequence[int] = ()
) -> Case:
    """The case of a body whose output `make(builder, *inputs)` emits."""
    builder = Builder("body")
    inputs = [builder.input(type) for type in types]
    return Case(builder.build([make(builder, *inputs)]), frozenset(constants))


def numbers(type: TensorType, seed: int) -> Tensor:
    """Normal floats; integers from -3 to 3; coin tosses."""
    generator = torch.Generator().manual_seed(seed)
    dtype = TORCH_DTYPE[type.dtype]
    if type.dtype.is_float:
        return torch.randn(type.shape, generator=generator, dtype=torch.float64).to(dtype)
    low, high = (0, 2) if type.dtype is DType.BOOL else (-3, 4)
    return torch.randint(low, high, type.shape, generator=generator).to(dtype)


def check(cases: Sequence[Case], target: Target | None = None, choice: int = 0) -> list[str]:
    """Compile all cases together, run each, compare; answers with the templates that took them."""
    loaded = Loaded(
        [case.body for case in cases], [case.constants for case in cases], target, choice
    )
    for number, case in enumerate(cases):
        found = loaded(number, case.inputs(number))
        case.compare(number, found, loaded.templates[number])
    return loaded.templates


def assert_close(value: Value, got: Tensor, wanted: Tensor, template: str) -> None:
    """Equal integers; floats within TOLERANCE of the result's range."""
    place = f"{value.hint} {value.type} by {template}"
    if not value.type.dtype.is_float:
        assert torch.equal(got, wanted), place
        return
    got, wanted = got.double(), wanted.double()
    assert torch.equal(got.isnan(), wanted.isnan()), f"nan in {place}"
    same = (got == wanted) | wanted.isnan()
    difference = torch.where(same, 0.0, (got - wanted).abs())
    finite = wanted[wanted.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
    if difference.numel():
        assert float(difference.max()) <= TOLERANCE[value.type.dtype] * scale, place
