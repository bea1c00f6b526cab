"""Corrected means help the outputs, or stay as they are: judged where no mean was learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.backends.reference.evaluate import run
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.module import Module, module_of
from optc.ir.ops import Linear, Slice
from optc.ir.types import TensorType
from optc.ir.verify import verify
from optc.passes.base import PassContext
from optc.passes.calibration import spread_calls
from optc.passes.precision.correct_biases import CorrectBiases, parted
from optc.passes.precision.output_errors import nearer
from optc.passes.precision.quantize import Quantize
from optc.passes.precision.quantize_weights import Bits, QuantizeWeights
from optc.quality.evidence import DataRequest, Evidence
from tests.passes.precision.quantizing import in_f32, with_data
from tests.passes.precision.test_scaling import MANY, _f32
from tests.passes.prune.networks import image_nets, text_nets

FOUR = QuantizeWeights(bits=Bits.FOUR, group=0)


def error(module: Module, source: Module, ctx: PassContext, judged: Sequence[int]) -> float:
    """The squared error of the outputs on some calibration calls, in another way than the pass."""
    assert ctx.calibration is not None
    calls = []
    for number, batch in enumerate(ctx.calibration.batches):
        if number in judged:
            given = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
            with torch.no_grad():
                found, wanted = (run(one, given).outputs for one in (module, source))
            calls.append([(found[name], wanted[name]) for name in wanted])
    shares = []
    for pairs in zip(*calls, strict=True):
        a, b = (torch.stack(items).double() for items in zip(*pairs, strict=True))
        shares.append(float(((a - b) ** 2).mean() / max(float(b.var(unbiased=False)), 1e-30)))
    return float(np.mean(shares))


@settings(MANY, max_examples=8)
@given(
    graph=st.one_of(image_nets(), text_nets()),
    step=st.sampled_from((Quantize(), FOUR)),
    calls=st.sampled_from((0, 1, 2, 5)),
)
def test_outputs_never_get_worse(
    graph: Graph, step: Quantize | QuantizeWeights, calls: int
) -> None:
    module, ctx = with_data(in_f32(graph))
    rounded = step.run(module, ctx)
    assert ctx.calibration is not None
    found = CorrectBiases(calls=calls).run(rounded, ctx)
    assert not verify(found)
    learnt, judged = parted(spread_calls(ctx.calibration.batches.calls, calls))
    assert not set(learnt) & set(judged) or learnt == judged
    before, after = (error(one, module, ctx, judged) for one in (rounded, found))
    assert after <= before * (1 + 1e-4) + 1e-9
    corrected = [item for item in ctx.diagnostics if item.code == "N0336"]
    assert bool(corrected) is (found is not rounded)


@pytest.mark.parametrize("calls", range(1, 70))
def test_calls_to_judge_on_are_others(calls: int) -> None:
    learnt, judged = parted(range(calls))
    if calls > 1:
        assert sorted([*learnt, *judged]) == list(range(calls))
        assert len(judged) == min(16, calls // 2)
    else:
        assert list(learnt) == list(judged) == [0]


def test_an_error_that_is_no_number_is_not_nearer() -> None:
    assert nearer(np.array([2.0, 1.0]), np.array([1.0, 1.5]))
    assert not nearer(np.array([2.0, 1.0]), np.array([np.nan, 0.0]))
    assert not nearer(np.zeros(3), np.zeros(3))


def test_a_mean_that_margins_make_is_not_followed() -> None:
    """The answer is in the first of sixteen places; in the others there is always the same."""
    draw, builder = np.random.default_rng(0), Builder()
    x = builder.input(TensorType((2, 16, 8), DType.F32), "x")
    weight = builder.constant(_f32(draw.standard_normal((8, 8))), "w")
    hidden = builder.emit(Linear(), x, weight)
    first = builder.emit(Slice((0, 0, 0), (2, 1, 8), (1, 1, 1)), hidden)
    module = module_of(builder.build([first]))
    rows = np.full((80, 16, 8), 3.0, np.float32)
    rows[:, 0] = draw.standard_normal((80, 8))
    evidence = Evidence(module, DataRequest({"x": rows}))
    ctx = replace(with_data(module)[1], calibration=evidence.calibration)
    rounded = FOUR.run(module, ctx)
    assert CorrectBiases().run(rounded, ctx) is rounded
    (left,) = [item.message for item in ctx.diagnostics if item.code == "N0337"]
    assert "its mean is off by" in left
    assert "and stays" in left
