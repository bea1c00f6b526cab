"""Every op with random attributes, dtypes and shapes: the ground of tests over the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from optc.ir.ops import OPS, Op, OpError
from optc.ir.types import TensorType
from tests.strategies import elementwise, images, movement, quantized, reductions, sequences
from tests.strategies.values import Values, fill


@dataclass(frozen=True)
class Instance:
    """An op, the types of its inputs, and what they hold."""

    op: Op
    types: tuple[TensorType, ...]
    values: tuple[Values, ...]
    seed: int = 0

    def inputs(self) -> list[Tensor]:
        """The same tensors each time."""
        generator = torch.Generator().manual_seed(self.seed)
        pairs = zip(self.types, self.values, strict=True)
        return [fill(type, values, generator) for type, values in pairs]

    def __str__(self) -> str:
        return f"{self.op}({', '.join(map(str, self.types))})"


Drawn = TypeVar("Drawn")
Parts = tuple[Op, list[TensorType], list[Values]]
MAKERS: Mapping[type[Op], Callable[[DrawFn, type[Op]], Parts]] = {
    **elementwise.MAKERS,
    **movement.MAKERS,
    **reductions.MAKERS,
    **images.MAKERS,
    **sequences.MAKERS,
    **quantized.MAKERS,
}


@st.composite
def _instance(draw: DrawFn, kind: type[Op]) -> Instance:
    op, types, values = MAKERS[kind](draw, kind)
    return Instance(op, tuple(types), tuple(values), draw(st.integers(0, 1 << 16)))


def instances(kind: type[Op]) -> SearchStrategy[Instance]:
    """Instances of one op class that its type rule accepts."""
    return _instance(kind).filter(_is_sound)


def any_instance() -> SearchStrategy[Instance]:
    """Instances of any op but Task."""
    return st.sampled_from([kind for kind in OPS if kind in MAKERS]).flatmap(instances)


def sample(strategy: SearchStrategy[Drawn], count: int) -> list[Drawn]:
    """`count` examples of a strategy, the same each time: for tests that compile in one go.

    Hypothesis begins with the smallest, so more are drawn and every third is kept.
    """
    drawn: list[Drawn] = []

    @settings(
        max_examples=3 * count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(item: Drawn) -> None:
        drawn.append(item)

    collect()
    return drawn[:: max(1, len(drawn) // count)][:count]


def _is_sound(instance: Instance) -> bool:
    try:
        results = instance.op.infer(*instance.types)
    except OpError:
        return False
    return all(0 < type.elements <= 1 << 14 for type in results)


__all__ = ["MAKERS", "Instance", "any_instance", "instances", "sample"]
