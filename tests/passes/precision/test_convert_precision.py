"""Half precision computes nearly the same, and leaves no f32 behind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.module import module_of
from optc.ir.ops import ew
from optc.passes.base import run_passes
from optc.passes.precision.convert_precision import ConvertPrecision, Half
from tests.passes.oracle import context
from tests.passes.precision.quantizing import in_f32, outputs
from tests.passes.prune.networks import image_nets, text_nets

FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("half", Half)
@FEW
@given(graph=st.one_of(image_nets(), text_nets()))
def test_everything_between_the_ports_is_half(half: Half, graph: Graph) -> None:
    module, step = module_of(in_f32(graph)), ConvertPrecision(dtype=half)
    after = run_passes(module, (step,), context())
    assert run_passes(after, (step,), context()) is after
    for node in after.graphs[0].nodes:
        wide = [v for v in (*node.inputs, *node.outputs) if v.type.dtype is DType.F32]
        assert not wide or isinstance(node.op, ew.Cast)
    for found, wanted in zip(outputs(after), outputs(module), strict=True):
        assert found.dtype is torch.float32
        # Random weights make large numbers that cancel: some percent of the largest.
        assert float((found - wanted).abs().max()) <= 0.15 * float(wanted.abs().max()) + 0.05
