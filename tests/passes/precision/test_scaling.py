"""Passes that scale weights: the same function, better ranges; and corrected means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from optc.backends.reference.evaluate import run
from optc.ir.builder import Builder
from optc.ir.constant import constant, to_floats
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.module import Module, module_of
from optc.ir.ops import Conv, LayerNorm, Linear, ReduceMean, ew
from optc.ir.types import TensorType
from optc.ir.verify import verify
from optc.passes.base import Pass, run_passes
from optc.passes.lineage import Lineage
from optc.passes.precision.correct_biases import CorrectBiases
from optc.passes.precision.equalize_ranges import EqualizeRanges
from optc.passes.precision.observe import Observer
from optc.passes.precision.quantize import Quantize
from optc.passes.precision.quantize_weights import Bits, QuantizeWeights
from optc.passes.precision.smooth_activations import SmoothActivations
from optc.passes.standard import LOWER
from tests.passes.precision.quantizing import in_f32, outputs, samples, with_data
from tests.passes.prune.networks import image_nets, text_nets

MANY = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def images(seed: int = 0) -> Module:
    """conv, relu, depthwise conv, relu, conv, relu, mean, linear; channels of very unlike sizes."""
    draw, builder = np.random.default_rng(seed), Builder()

    def weight(*shape: int) -> object:
        sizes = np.exp(draw.uniform(-3, 3, (shape[0], *[1] * (len(shape) - 1))))
        return builder.constant(
            constant((draw.standard_normal(shape) * sizes).astype(np.float32)), "w"
        )

    def bias(count: int) -> object:
        return builder.constant(constant(draw.standard_normal(count).astype(np.float32)), "b")

    x = builder.input(TensorType((2, 3, 8, 8), DType.F32), "x")
    same = ((1, 1), (1, 1))
    layers = [
        (Conv(padding=same), (16, 3, 3, 3)),
        (Conv(padding=same, groups=16), (16, 1, 3, 3)),
        (Conv(), (8, 16, 1, 1)),
    ]
    for op, shape in layers:
        x = builder.emit(op, x, weight(*shape), bias(shape[0]))  # type: ignore[arg-type]
        x = builder.emit(ew.Relu(), x)
    x = builder.emit(ReduceMean(axes=(2, 3)), x)
    x = builder.emit(Linear(), x, weight(5, 8), bias(5))  # type: ignore[arg-type]
    return module_of(builder.build([x]))


def tokens() -> Module:
    """A layer norm with outlier channels, read by two linear layers."""
    draw, builder = np.random.default_rng(0), Builder()
    x = builder.input(TensorType((2, 6, 32), DType.F32), "x")
    gamma = np.ones(32)
    gamma[[3, 17]] = (60.0, 90.0)
    numbers = [gamma, draw.standard_normal(32)]
    norm = builder.emit(LayerNorm(), x, *(builder.constant(_f32(n), "n") for n in numbers))
    weights = [draw.standard_normal((32, 32)) / gamma for _ in range(2)]
    a, b = (builder.emit(Linear(), norm, builder.constant(_f32(w), "w")) for w in weights)
    return module_of(builder.build([builder.emit(ew.Mul(), a, b)]))


def _f32(array: np.ndarray) -> object:
    return constant(array.astype(np.float32))


def distance(one: Module, other: Module) -> float:
    """The largest difference of outputs, as a share of the largest output."""
    pairs = list(zip(outputs(one), outputs(other), strict=True))
    largest = max(float(b.abs().max()) for _, b in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / max(largest, 1e-30)


def noise(module: Module, source: Module) -> float:
    """The power of the error over the signal's."""
    pairs = zip(outputs(module), outputs(source), strict=True)
    return sum(float(((a - b) ** 2).sum() / (b**2).sum()) for a, b in pairs)


@MANY
@given(graph=image_nets())
def test_equalised_networks_compute_the_same(graph: Graph) -> None:
    module, ctx = with_data(in_f32(graph))
    found = EqualizeRanges().run(module, ctx)
    assert not verify(found)
    assert distance(found, module) < 2e-5
    assert EqualizeRanges().run(found, ctx) is found


@MANY
@given(graph=text_nets())
def test_smoothed_networks_compute_the_same(graph: Graph) -> None:
    module, ctx = with_data(in_f32(graph))
    found = SmoothActivations(alpha=0.7).run(module, ctx)
    assert not verify(found)
    assert distance(found, module) < 2e-5


def test_ranges_of_neighbours_meet() -> None:
    module, ctx = with_data(images())
    found = EqualizeRanges().run(module, ctx)
    assert distance(found, module) < 1e-5
    assert [d.code for d in ctx.diagnostics].count("N0334") == 3
    first, second, *_ = [n for n in found.graphs[0].nodes if isinstance(n.op, Conv)]
    ours, theirs = (to_floats(found.graphs[0].constants[n.inputs[1]]) for n in (first, second))
    assert np.allclose(abs(ours).max((1, 2, 3)), abs(theirs).max((1, 2, 3)), rtol=5e-3)


def test_what_stands_between_is_named() -> None:
    builder = Builder()
    x = builder.input(TensorType((2, 4), DType.F32), "x")
    for activation in (ew.Gelu(), ew.Clamp(0.0, 6.0)):
        weight = builder.constant(_f32(np.eye(4)), "w")
        x = builder.emit(activation, builder.emit(Linear(), x, weight))
    x = builder.emit(Linear(), x, builder.constant(_f32(np.eye(4)), "w"))
    module, ctx = with_data(module_of(builder.build([x])))
    assert EqualizeRanges().run(module, ctx) is module
    reasons = [d.message for d in ctx.diagnostics if d.code == "N0335"]
    assert [text.split(": ")[1] for text in reasons] == [
        "a factor does not pass gelu",
        "a factor does not pass clamp",
    ]


@pytest.mark.parametrize(
    ("scaling", "module"), [(EqualizeRanges(), images()), (SmoothActivations(), tokens())]
)
def test_integers_lose_less_behind_it(scaling: Pass, module: Module) -> None:
    module, ctx = with_data(module)
    step = Quantize(observer=Observer.MINMAX)
    plain = step.run(module, replace(ctx, lineage=Lineage()))
    scaled = run_passes(module, (scaling, step), replace(ctx, lineage=Lineage()))
    assert noise(scaled, module) < 0.5 * noise(plain, module)


def _mean_error(module: Module, source: Module, many: int = 64) -> float:
    """How far the mean of each output's channel is off, over fresh samples."""
    drawn = samples(source, many * source.inputs[0].type.shape[0], seed=5)
    sums = []
    for one in (module, source):
        total = None
        for start in range(many):
            step = source.inputs[0].type.shape[0]
            part = {
                name: torch.from_numpy(array[start * step : (start + 1) * step])
                for name, array in drawn.items()
            }
            with torch.no_grad():
                (found,) = run(one, part).outputs.values()
            total = found.mean(0) if total is None else total + found.mean(0)
        sums.append(total / many)
    return float((sums[0] - sums[1]).abs().mean())


@pytest.mark.parametrize("bits", [8, 4])
def test_means_come_back(bits: int) -> None:
    module, ctx = with_data(images(3))
    calls = replace(ctx, lineage=Lineage())
    if bits == 8:
        rounded = Quantize(observer=Observer.PERCENTILE, outliers=0.02).run(module, calls)
    else:
        rounded = QuantizeWeights(bits=Bits.FOUR, group=0).run(module, calls)
    corrected = CorrectBiases().run(rounded, calls)
    assert not verify(corrected)
    assert _mean_error(corrected, module) < 0.5 * _mean_error(rounded, module)
    integers = run_passes(corrected, LOWER, calls)
    assert distance(integers, corrected) < 0.05


def test_without_a_lineage_biases_stay() -> None:
    module, ctx = with_data(images())
    rounded = Quantize().run(module, ctx)
    assert CorrectBiases().run(rounded, replace(ctx, lineage=Lineage())) is rounded
