"""Pruned = masked, over networks of every coupling case; and every case has something to prune."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.module import module_of
from optc.ir.ops import Linear
from optc.ir.types import TensorType
from optc.ir.verify import verify
from optc.passes.prune.coupling import couplings
from optc.passes.prune.surgery import Kept, remove
from tests.passes.prune.masking import equals_masked, some
from tests.passes.prune.networks import IMAGE, SEQUENCE, Maker, image_nets, text_nets

MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def inputs_of(graph: Graph) -> list[torch.Tensor]:
    """Seeded inputs; integers are below 7."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if value.type.dtype.is_float
        else torch.randint(0, 7, value.shape, generator=generator)
        for value in graph.inputs
    ]


@MANY
@given(
    graph=st.one_of(image_nets(), text_nets()),
    seed=st.integers(0, 999),
    share=st.sampled_from((0.2, 0.5, 0.9)),
)
def test_pruned_is_masked(graph: Graph, seed: int, share: float) -> None:
    pruned = equals_masked(some(couplings(graph), seed, share), inputs_of(graph), 1e-9)
    assert not verify(module_of(pruned))


@MANY
@given(graph=st.one_of(image_nets(), text_nets()))
def test_all_but_one_of_everything_can_go(graph: Graph) -> None:
    found = couplings(graph)
    removed = np.zeros(len(found.pin_of), dtype=bool)
    for family in found.families:
        if family.pin is None:
            removed[family.components[1:]] = True
    equals_masked(Kept(found, removed), inputs_of(graph), 1e-9)


def test_nothing_removed_is_the_same_object() -> None:
    builder = Builder()
    x = builder.input(TensorType((1, 3), DType.F64))
    weight = builder.constant(np.ones((4, 3)))
    graph = builder.build([builder.emit(Linear(), x, weight)])
    found = couplings(graph)
    assert remove(Kept(found, np.zeros(len(found.pin_of), dtype=bool))) is graph


@pytest.mark.parametrize("block", [*IMAGE, *SEQUENCE], ids=lambda block: block.__name__)
@settings(MANY, max_examples=12)
@given(data=st.data())
def test_every_block_alone_is_prunable_and_equals_masking(
    block: object, data: st.DataObject
) -> None:
    make = Maker(data.draw)
    image = block in IMAGE
    shape = (1, 3, 4, 4) if image else (1, 5, 6)
    x = make.builder.input(TensorType(shape, DType.F64))
    y = block(make, x)  # type: ignore[operator]
    if image:
        y = make.conv(y, 2)
    graph = make.builder.build([y])
    found = couplings(graph)
    free = [len(family.components) for family in found.families if family.pin is None]
    assert max(free, default=0) > 1
    for seed, share in enumerate((0.2, 0.4, 0.6, 0.9)):
        equals_masked(some(found, seed, share), inputs_of(graph), 1e-9)
