"""Pruning by what a fit cannot bring back: the order, what is lost, and who gives how much."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optc.backends.reference.fold import evaluate_constants
from optc.ir.diagnostics import OptcError
from optc.ir.graph import Graph
from optc.ir.module import Module, module_of
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.passes.base import PassContext
from optc.passes.pipeline import Pipeline
from optc.passes.prune.allocation import Spread, Supply, Work, spread
from optc.passes.prune.coupling import couplings
from optc.passes.prune.elimination import curves
from optc.passes.prune.importance import Criterion
from optc.passes.prune.prune_channels import PruneChannels
from optc.passes.prune.selection import Request, select
from optc.quality.evidence import DataRequest, Evidence
from tests.passes.prune.masking import equals_masked
from tests.passes.prune.networks import image_nets, text_nets

CHAIN = """graph @main(%x: 4x6xf32) {
  %w = constant {seed=1} : 6x6xf32
  %v = constant {seed=3} : 5x6xf32
  %a = linear(%x, %w) : 4x6xf32
  %r = relu(%a) : 4x6xf32
  %y = linear(%r, %v) : 4x5xf32
  return %y
}
"""
TWINS = """graph @main(%x: 4x6xf32) {
  %w = constant {values=(WIDE)} : 8x6xf32
  %v = constant {values=(READER)} : 3x8xf32
  %a = linear(%x, %w) : 4x8xf32
  %r = relu(%a) : 4x8xf32
  %y = linear(%r, %v) : 4x3xf32
  return %y
}
"""
UNEVEN = """graph @main(%x: 4x1x6x6xf32) {
  %w = constant {seed=1} : 8x1x3x3xf32
  %narrow = constant {seed=2} : 8x8x1x1xf32
  %wide = constant {values=(WIDE)} : 16x8x1x1xf32
  %v = constant {seed=4} : 4x16x1x1xf32
  %a = conv(%x, %w) {padding=((1, 1), (1, 1))} : 4x8x6x6xf32
  %r = relu(%a) : 4x8x6x6xf32
  %b = conv(%r, %narrow) : 4x8x6x6xf32
  %c = conv(%b, %wide) : 4x16x6x6xf32
  %y = conv(%c, %v) : 4x4x6x6xf32
  return %y
}
"""


def context(module: Module, count: int = 200, seed: int = 0) -> PassContext:
    draw = np.random.default_rng(seed)
    (port,) = module.inputs
    x = draw.standard_normal((count, *port.type.shape[1:])).astype(np.float32)
    evidence = Evidence(module, DataRequest({port.name: x}, calibration=10))
    return PassContext(
        find_target("x86-64-v3"), evaluate=evaluate_constants, calibration=evidence.calibration
    )


def filled(text: str, **places: np.ndarray) -> Module:
    for place, numbers in places.items():
        text = text.replace(place, ", ".join(str(float(n)) for n in numbers.ravel()))
    return parse(text)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_the_first_to_go_is_the_one_that_a_fit_misses_least(seed: int) -> None:
    """Against least squares without each of the channels, on the rows themselves."""
    draw = np.random.default_rng(seed)
    wide, reader = draw.standard_normal((8, 6)), draw.standard_normal((3, 8))
    module = filled(TWINS, WIDE=wide, READER=reader)
    ctx = context(module, seed=seed)
    (curve,) = curves(module, couplings(module.graphs[0]), ctx, "test").values()
    (port,) = module.inputs
    x = np.concatenate([batch.inputs[port.name] for batch in ctx.needed_calibration("x").batches])
    rows = np.maximum(x @ wide.T.astype(np.float32), 0).astype(np.float64)
    rows -= rows.mean(0)

    def missed(gone: int) -> float:
        left = np.delete(rows, gone, 1)
        fit, *_ = np.linalg.lstsq(left, rows @ reader.T, rcond=None)
        return float(((left @ fit - rows @ reader.T) ** 2).sum())

    every = np.array([missed(n) for n in range(8)])
    place = {int(c): n for n, c in enumerate(np.sort(curve.order))}
    first = place[int(curve.order[0])]
    assert every[first] <= 1.1 * every.min(), every  # the ridge may turn near ties
    assert (np.diff(curve.loss) >= 0).all()


def test_of_two_alike_one_goes_first_though_its_weights_are_the_largest() -> None:
    draw = np.random.default_rng(1)
    wide, reader = draw.standard_normal((8, 6)), draw.standard_normal((3, 8))
    wide[5] = wide[2]
    wide[[2, 5]] *= 30
    module = filled(TWINS, WIDE=wide, READER=reader)
    pipeline = Pipeline.parse(
        "prune-channels{ratio=0.125,align=1,criterion=fit},reconstruct-weights"
    )
    ctx = context(module)
    after = pipeline.run(module, ctx)
    kept = next(c.array for v, c in after.graphs[0].constants.items() if v.hint == "w")
    expected = {np.delete(wide, gone, 0).astype(np.float32).tobytes() for gone in (2, 5)}
    assert kept.tobytes() in expected
    (mended,) = (d.message for d in ctx.diagnostics if d.code == "N0313")
    assert float(mended.rpartition("now ")[2].split(" %")[0]) < 0.1, mended


def test_who_says_the_same_twice_gives_more_at_the_same_operations() -> None:
    """Sixteen channels that hold four numbers give eight, the others fewer than an even share."""
    draw = np.random.default_rng(2)
    wide = np.repeat(draw.standard_normal((4, 8)), 4, axis=0)
    module = filled(UNEVEN, WIDE=wide)
    even = "prune-channels{ratio=0.25,align=1,criterion=fit}"
    shapes = []
    for options in ("", ",spread=loss"):
        after = Pipeline.parse(even.replace("}", options + "}")).run(module, context(module))
        graph = after.graphs[0]
        shapes.append({v.hint: v.shape[0] for v in graph.constants})
    assert shapes[0]["wide"] == 12
    assert 8 <= shapes[1]["wide"] < 10  # twice the ratio is the most
    others = [shape["w"] + shape["narrow"] for shape in shapes]
    assert others[1] > others[0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999))
def test_shares_reach_the_operations_of_an_even_one_at_no_greater_loss(seed: int) -> None:
    """Against all combinations: within the target, and near the least loss of any."""
    draw = np.random.default_rng(seed)
    found = couplings(parse(UNEVEN.replace("values=(WIDE)", "seed=3")).graphs[0])
    free = [f for f in found.families if f.pin is None and len(f.components) > 1]
    supplies = []
    for family in free:
        count = len(family.components)
        loss = np.cumsum(np.sort(draw.random(count)))  # convex, as curves nearly are
        supplies.append(Supply(family.components, loss, tuple(range(1, count)), count // 4))
    work = Work(found, [supply.components for supply in supplies])
    even = [supply.even for supply in supplies]
    target = work.left(even)
    gone = spread(found, supplies)

    def lost(counts: list[int]) -> float:
        pairs = zip(supplies, counts, strict=True)
        return sum(float(s.loss[n - 1]) if n else 0.0 for s, n in pairs)

    assert work.left(gone) <= target
    choices = itertools.product(*(range(len(s.components)) for s in supplies))
    least = min(lost(list(c)) for c in choices if work.left(list(c)) <= target)
    assert lost(gone) <= 1.5 * least + 0.5


@pytest.mark.parametrize("options", ["criterion=fit", "criterion=fit,spread=loss"])
def test_without_data_it_says_what_is_missing(options: str) -> None:
    step = Pipeline.parse(f"prune-channels{{ratio=0.5,align=1,{options}}}")
    with pytest.raises(OptcError, match="E0134") as caught:
        step.run(parse(CHAIN), PassContext(find_target("x86-64-v3")))
    assert options.split(",")[-1] in caught.value.diagnostics[0].message


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=st.one_of(image_nets(), text_nets()), spread_=st.sampled_from(Spread))
def test_pruned_is_masked(graph: Graph, spread_: Spread) -> None:
    """Whatever the data say, over networks of every coupling case."""
    module = module_of(graph)
    draw = np.random.default_rng(0)
    data = {
        port.name: draw.standard_normal((6, *port.type.shape))
        if port.type.dtype.is_float
        else draw.integers(0, 7, (6, *port.type.shape))
        for port in module.inputs
    }
    evidence = Evidence(module, DataRequest(rows_of(data), calibration=10))
    ctx = PassContext(
        find_target("x86-64-v3"), evaluate=evaluate_constants, calibration=evidence.calibration
    )
    request = Request(False, 0.4, Criterion.FIT, 1, 0, spread=spread_)
    (kept,) = select(module, ctx, request)
    inputs = [torch.from_numpy(array[0]) for array in data.values()]
    equals_masked(kept, inputs, 1e-9)


def rows_of(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Calls as samples: the batch axis of the networks is one."""
    return {name: array.reshape(-1, *array.shape[2:]) for name, array in data.items()}


def test_losses_are_what_a_fit_can_tell() -> None:
    module = parse(CHAIN)
    with pytest.raises(OptcError, match="E0132"):
        PruneChannels(spread=Spread.LOSS).run(module, PassContext(find_target("x86-64-v3")))
