"""`prices=measured`: what is put to the clock, what becomes of its answers, and what is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite

import numpy as np
import pytest

from optc.cache import default_cache
from optc.contexts import pass_context
from optc.ir.builder import Builder
from optc.ir.constant import constant
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.module import Module, module_of
from optc.ir.ops import Conv, ConvTranspose, Linear, Op
from optc.ir.printer import print_module
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from optc.ir.verify import verify
from optc.kernel_times import KernelTimes
from optc.passes.base import PassContext, run_passes
from optc.passes.precision.assign_precision import AssignPrecision
from optc.passes.precision.choices import Choice, layers_of
from optc.passes.precision.forms import form
from optc.passes.precision.prices import WIDENED, Source, clocked, price
from optc.passes.standard import LOWER
from tests.passes.precision.test_assign_precision import net, said, with_data

TARGET = find_target("sapphirerapids")  # has kernels for every choice
MEASURED = AssignPrecision(prices=Source.MEASURED)
OPS: list[tuple[Op, tuple[int, ...], tuple[int, ...]]] = [
    (Linear(), (4, 64), (32, 64)),
    (Conv(padding=((1, 1), (1, 1))), (1, 8, 9, 9), (16, 8, 3, 3)),
    (Conv(groups=16), (1, 16, 9, 9), (16, 1, 3, 3)),
    (ConvTranspose(stride=(2, 2)), (1, 8, 5, 5), (8, 6, 2, 2)),
]


def layer_of(op: Op, x: tuple[int, ...], weight: tuple[int, ...]) -> Module:
    builder, draw = Builder(), np.random.default_rng(0)
    value = builder.input(TensorType(x, DType.F32), "x")
    factors = [draw.standard_normal(weight)]
    if not isinstance(op, ConvTranspose):
        factors.append(draw.standard_normal(weight[0]))
    constants = [builder.constant(constant(item.astype(np.float32))) for item in factors]
    return module_of(builder.build([builder.emit(op, value, *constants)]))


def forms_of(module: Module) -> dict[Choice, Graph]:
    (layer,) = layers_of(module, TARGET, ())
    (node,) = layer.nodes
    return {choice: form(node, layer, choice, DType.U8) for choice in layer.offers}


@pytest.mark.parametrize(
    ("name", "ratio"), [("znver4", 1.0), ("x86-64-v3", WIDENED), ("x86-64-v2", 1.0)]
)
def test_depthwise_bytes_cost_what_widening_them_does(name: str, ratio: float) -> None:
    target = find_target(name)
    op, weight = Conv(padding=((1, 1), (1, 1)), groups=16), (16, 1, 3, 3)
    (layer,) = layers_of(layer_of(op, (1, 16, 9, 9), weight), target, ())

    def counted(flops: int, read: int, written: int, dtype: DType) -> float:
        assert dtype is DType.F32
        return flops

    floats, integers = (price(layer, c, target, counted) for c in (Choice.FLOAT, Choice.INT8))
    assert integers.seconds == pytest.approx(ratio * floats.seconds)


@pytest.mark.parametrize(("op", "x", "weight"), OPS)
def test_a_form_computes_what_its_choice_says(
    op: Op, x: tuple[int, ...], weight: tuple[int, ...]
) -> None:
    found = forms_of(layer_of(op, x, weight))
    assert {Choice.FLOAT, Choice.INT8, Choice.INT8_4} <= set(found)
    for choice, graph in found.items():
        module = module_of(graph)
        assert not verify(module)
        assert graph.outputs[0].type.dtype is DType.F32
        lowered = run_passes(module, LOWER, PassContext(TARGET))
        (node,) = (n for n in lowered.graphs[0].nodes if type(n.op) is type(op))
        reads = DType.U8 if choice.integers else choice.activations
        assert node.inputs[0].type.dtype is reads
        assert getattr(node.op, "channels_last", True)
    assert print_module(module_of(found[Choice.INT8])) == print_module(
        module_of(found[Choice.INT8_4])
    )


class Told:
    """A stopwatch that is told what to answer."""

    def __init__(self, answer: Callable[[Graph], float]) -> None:
        self.answer = answer
        self.asked: list[int] = []

    def __call__(self, graphs: Sequence[Graph]) -> Sequence[float]:
        self.asked.append(len(graphs))
        return [self.answer(graph) for graph in graphs]


def loves_floats(graph: Graph) -> float:
    return 1e-4 if {value.type.dtype for value in graph.constants} == {DType.F32} else 1e-3


def loves_integers(graph: Graph) -> float:
    return 1e-5 if graph.inputs[0].type.dtype is DType.U8 else 1e-3


def test_the_plan_follows_the_clock_and_says_so() -> None:
    module = net()
    ctx = with_data(module)
    watch = Told(loves_floats)
    assert MEASURED.run(module, replace(ctx, stopwatch=watch)) is module
    reasons = said(ctx)
    assert all("would be" in reasons[f"layer{n}"] for n in range(4))
    layers = list(layers_of(module, ctx.target, ()))
    # Four equal layers, each form once; half bytes are whole ones to a kernel of bytes.
    assert watch.asked == [len(layers[0].offers) - 1]
    quick = with_data(module)
    found = MEASURED.run(module, replace(quick, stopwatch=Told(loves_integers)))
    assert found is not module
    assert all("int8: " in said(quick)[f"layer{n}"] for n in range(4))
    assert all(" us measured, " in said(quick)[f"layer{n}"] for n in range(4))
    assert any("times the measured time" in text for text in said(quick).values())


def test_where_nothing_can_be_measured_gains_are_modelled_and_a_warning_says_why() -> None:
    module = net()
    ctx = replace(with_data(module), stopwatch=lambda _: "this machine is another")
    found = MEASURED.run(module, ctx)
    (warning,) = (item for item in ctx.diagnostics if item.code == "W0317")
    assert "this machine is another" in warning.message
    assert any("times the modelled time" in text for text in said(ctx).values())
    assert found is not module


def test_this_machine_times_every_form_once() -> None:
    host = find_target("host")
    watch = KernelTimes(pass_context(host), default_cache())
    layers = [layer for case in OPS for layer in layers_of(layer_of(*case), host, ())]
    found = clocked(layers, watch, host.activations)
    assert not isinstance(found, str)
    assert len(found) == sum(len(layer.offers) - 1 for layer in layers)
    assert all(isfinite(seconds) and seconds > 0 for seconds in found.values())
    known = dict(watch._known)
    assert len(known) == len(found)
    assert clocked(layers, watch, host.activations) == found
    assert watch._known == known


def test_another_machine_s_kernels_are_not_run() -> None:
    cortex = find_target("cortex-a76")
    watch = KernelTimes(pass_context(cortex))
    answer = watch(list(forms_of(layer_of(*OPS[0])).values()))
    assert answer == "kernels for cortex-a76 do not run on this machine"
