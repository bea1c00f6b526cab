"""Which layers get which precision, and that the budget has the last word."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from optc.ir.builder import Builder
from optc.ir.constant import constant
from optc.ir.dtype import DType
from optc.ir.module import Module, module_of
from optc.ir.ops import Conv, Dequantize, Linear, Quantize, ew
from optc.ir.printer import print_module
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.ir.types import TensorType
from optc.ir.verify import verify
from optc.passes.base import Latency, PassContext, run_passes
from optc.passes.precision.assign_precision import AssignPrecision
from optc.passes.precision.choices import Choice
from optc.passes.precision.mixture import Mixture
from optc.passes.precision.solver import Objective
from optc.passes.quality import Better, Difference, Interval, Judge, Part, Quality
from optc.passes.standard import LOWER
from optc.payoff import modelled_latency
from optc.quality.evidence import DataRequest, Evidence
from tests.passes.oracle import context
from tests.passes.precision.quantizing import outputs, samples

WIDTH = 64


def net(loud: int | None = None) -> Module:
    """Four linear layers; the input of the layer `loud` has a channel that drowns the others.

    The layer before makes it, a thousand times as large, and the layer's own weights undo that.
    """
    draw, builder = np.random.default_rng(0), Builder()
    x = builder.input(TensorType((4, WIDTH), DType.F32), "x")
    weights = [draw.standard_normal((WIDTH, WIDTH)) / 8 for _ in range(4)]
    if loud is not None:
        weights[loud - 1][5] *= 1000
        weights[loud][:, 5] /= 1000
    for number, weight in enumerate(weights):
        value = builder.constant(constant(weight.astype(np.float32)), f"layer{number}")
        x = builder.emit(Linear(), x, value, hint=f"y{number}")
        if number < 3:
            x = builder.emit(ew.Relu(), x, hint=f"r{number}")
    return module_of(builder.build([x]))


def with_data(module: Module, target: str = "znver4", **request: Any) -> PassContext:
    """A context with data, a budget of 1 % of the cosine, and the target's modelled latency."""
    asked = {"metric": "cosine", "budget": 0.01, **request}
    evidence = Evidence(module, DataRequest(samples(module, 160), **asked))
    machine = find_target(target)
    return replace(
        context(),
        target=machine,
        latency=modelled_latency(machine),
        calibration=evidence.calibration,
        judge=evidence.judge,
    )


def said(ctx: PassContext) -> dict[str, str]:
    """What was said of each layer, by its name."""
    words = (d.message.partition(" ") for d in ctx.diagnostics if d.code == "N0333")
    return {name: text for name, _, text in words}


def test_all_layers_are_integers_where_none_minds() -> None:
    module = net()
    ctx = with_data(module)
    found = AssignPrecision().run(module, ctx)
    assert not verify(found)
    assert all("int8:" in said(ctx)[f"layer{n}"] for n in range(4))
    lowered = run_passes(found, LOWER, ctx)
    layers = [node for node in lowered.graphs[0].nodes if isinstance(node.op, Linear)]
    assert [node.inputs[0].type.dtype for node in layers] == [DType.U8] * 4


@pytest.mark.parametrize("loud", [1, 2, 3])
@pytest.mark.parametrize("objective", Objective)
def test_a_fragile_layer_keeps_float_activations(loud: int, objective: Objective) -> None:
    module = net(loud)
    ctx = with_data(module)
    found = AssignPrecision(objective=objective).run(module, ctx)
    reasons = said(ctx)
    assert "int8" not in reasons[f"layer{loud}"].split(":")[0], reasons
    assert ctx.judge is not None
    assert ctx.judge.compare(found).interval.high <= 0.01
    others = [reasons[f"layer{n}"] for n in range(4) if n != loud]
    assert all(" dB, " in text for text in others), reasons


def test_equal_input_gives_an_equal_plan() -> None:
    module = net(2)
    texts = [
        print_module(AssignPrecision(objective=Objective.SIZE).run(module, with_data(module)))
        for _ in range(2)
    ]
    assert texts[0] == texts[1]


def test_size_takes_half_bytes_and_their_layers_integerize() -> None:
    module = net()
    ctx = with_data(module, budget=0.05)
    found = AssignPrecision(objective=Objective.SIZE).run(module, ctx)
    stored = [item.type.dtype for item in found.graphs[0].constants.values()]
    assert stored.count(DType.I4) >= 4  # of weights and zeros
    integers = run_passes(found, LOWER, ctx)
    for one, other in zip(outputs(found), outputs(integers), strict=True):
        assert float((one - other).abs().max()) <= 0.02 * float(one.abs().max())


def test_a_layer_that_would_be_slower_is_left_alone_and_says_so() -> None:
    module = net()
    ctx = replace(with_data(module), latency=_hates_integers)
    assert AssignPrecision().run(module, ctx) is module
    assert all("kept f32: would be" in said(ctx)[f"layer{n}"] for n in range(4))


def test_forms_that_cannot_be_faster_are_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[set[Choice]] = []
    true = Mixture.module

    def module(self: Mixture, plan: Mapping[Any, Choice], lineage: Any = None) -> Module:
        heard.append(set(plan.values()))
        return true(self, plan, lineage)

    monkeypatch.setattr(Mixture, "module", module)
    source = net()
    ctx = replace(with_data(source), latency=_computes(1e-9))
    AssignPrecision().run(source, ctx)
    assert set().union(*heard) == {Choice.HALF, Choice.INT8}  # reading weights takes no time
    heard.clear()
    AssignPrecision(objective=Objective.SIZE).run(source, ctx)
    assert set().union(*heard) == set(Choice) - {Choice.FLOAT}


def _computes(second: float) -> Latency:
    def latency(flops: int, read: int, written: int, dtype: DType) -> float:
        return second * flops * dtype.bits + 1e-12 * written

    return latency


def _hates_integers(flops: int, read: int, written: int, dtype: DType) -> float:
    slow = 1 if dtype is DType.F32 else 10
    return 1e-9 * flops * slow + 1e-12 * written


@dataclass
class Scripted:
    """A judge whose held-out part does not bear what it is told not to."""

    real: Judge
    bears: Callable[[Module], bool]
    looks: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def compare(
        self, module: Module, part: Part = Part.HELD_OUT, calls: Collection[int] | None = None
    ) -> Difference:
        if part is not Part.HELD_OUT:
            return self.real.compare(module, part, calls)
        self.looks += 1
        return _difference(0.0 if self.bears(module) else 0.5)


def _difference(drop: float) -> Difference:
    whole = Interval(drop, drop, "scripted")
    before = Quality("cosine", 1.0, whole, 9, Better.HIGHER)
    return Difference(before, replace(before, value=1 - drop), drop, whole)


def _quantized(module: Module) -> int:
    return sum(isinstance(node.op, Quantize) for node in module.graphs[0].nodes)


def test_layers_go_back_until_the_held_out_check_passes() -> None:
    module = net()
    ctx = with_data(module, "icelake-server")
    assert ctx.judge is not None
    judge = Scripted(ctx.judge, lambda found: _quantized(found) <= 2)
    found = AssignPrecision().run(module, replace(ctx, judge=judge))
    reasons = [text for name, text in said(ctx).items() if name.startswith("layer")]
    back = [text for text in reasons if text.startswith("reverted to ")]
    assert 2 <= len(back) < 4
    assert 0 < _quantized(found) <= 2
    assert judge.looks > 1


def test_where_nothing_holds_the_module_stays_and_a_warning_says_so() -> None:
    module = net()
    ctx = with_data(module)
    assert ctx.judge is not None
    judge = Scripted(ctx.judge, lambda found: found is module)
    assert AssignPrecision().run(module, replace(ctx, judge=judge)) is module
    assert "W0316" in [finding.code for finding in ctx.diagnostics]


def test_a_budget_that_the_calibration_part_excludes_leaves_all_as_it_is() -> None:
    module = net(2)
    ctx = with_data(module, budget=0.0)
    assert AssignPrecision().run(module, ctx) is module
    assert all("more noise than the budget" in said(ctx)[f"layer{n}"] for n in range(4))


EXITS = """module @m {
  input x : 4x8xf32
  output y : 4x8xf32
  flow {
    h, e, done = run @a(x)
    exit_if done return e
    y = run @b(h)
  }
  graph @a(%x: 4x8xf32) {
    %w = constant {seed=1} : 16x8xf32
    %v = constant {seed=2} : 8x16xf32
    %g = linear(%x, %w) : 4x16xf32
    %h = relu(%g) : 4x16xf32
    %e = linear(%h, %v) : 4x8xf32
    %m = reduce_max(%e) {axes=(0, 1), keepdims=false} : f32
    %t = constant {splat=30.0} : f32
    %done = greater(%m, %t) : bool
    return %h, %e, %done
  }
  graph @b(%h: 4x16xf32) {
    %u = constant {seed=3} : 64x16xf32
    %o = constant {seed=4} : 8x64xf32
    %k = linear(%h, %u) : 4x64xf32
    %r = relu(%k) : 4x64xf32
    %y = linear(%r, %o) : 4x8xf32
    return %y
  }
}
"""


def test_every_stage_of_a_module_with_exits_takes_part() -> None:
    module = parse(EXITS)
    ctx = with_data(module)
    found = AssignPrecision().run(module, ctx)
    assert not verify(found)
    assert {step.graph for step in found.flow.runs} == {"a", "b"}
    changed = [_layers_of_integers(graph.nodes) for graph in found.graphs]
    assert all(changed)


def _layers_of_integers(nodes: Collection[Any]) -> int:
    made = {node.outputs[0] for node in nodes if isinstance(node.op, Dequantize)}
    layers = [node for node in nodes if isinstance(node.op, Linear | Conv)]
    return sum(made.issuperset(node.inputs[:2]) for node in layers)


def test_bf16_is_chosen_where_the_target_has_it_and_integers_lose_too_much() -> None:
    module = net(2)
    ctx = with_data(module, "sapphirerapids", budget=1e-3)
    found = AssignPrecision().run(module, ctx)
    kinds = {node.op.dtype for node in found.graphs[0].nodes if isinstance(node.op, ew.Cast)}
    assert kinds == {DType.BF16, DType.F32}
    assert Choice.HALF.value in said(ctx)["layer2"]


def test_what_is_computed_in_floats_says_why() -> None:
    text = """graph @main(%x: 4x8xf32) {
      %w = constant {seed=1} : 8x8xf32
      %a = linear(%x, %w) : 4x8xf32
      %t = transpose(%a) {perm=(1, 0)} : 8x4xf32
      %y = mat_mul(%a, %t) : 4x4xf32
      return %y
    }
    """
    module = parse(text)
    ctx = with_data(module)
    AssignPrecision().run(module, ctx)
    reasons = [found.message for found in ctx.diagnostics if found.code == "N0330"]
    assert reasons == ["mat_mul y stays in floats: both of its factors are computed at run time"]
