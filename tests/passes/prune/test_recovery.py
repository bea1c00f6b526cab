"""Recovery without labels: layers see what they will see, fits are the best there are, it helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

import optc
from optc.backends.reference.evaluate import run, run_graph
from optc.backends.reference.fold import evaluate_constants
from optc.backends.reference.walk import ReferenceWalk
from optc.ir.builder import Builder
from optc.ir.constant import constant
from optc.ir.diagnostics import OptcError
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.module import Module, module_of
from optc.ir.ops import Conv
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.ir.types import TensorType
from optc.passes.base import PassContext
from optc.passes.calibration import Batch
from optc.passes.pipeline import Pipeline
from optc.passes.prune.patches import channel_axis, inputs_at, outputs_at, places_of
from optc.quality.evidence import DataRequest, Evidence
from tests.passes.prune.networks import image_nets, text_nets

RECOVERY = ("match-statistics", "reconstruct-weights")
CHAIN = """graph @main(%x: 4x6xf32) {
  %w = constant {seed=1} : 8x6xf32
  %b = constant {seed=2} : 8xf32
  %v = constant {seed=3} : 5x8xf32
  %a = linear(%x, %w, %b) : 4x8xf32
  %r = relu(%a) : 4x8xf32
  %y = linear(%r, %v) : 4x5xf32
  return %y
}
"""


def opened(module: Module, data: dict[str, np.ndarray]) -> PassContext:
    evidence = Evidence(module, DataRequest(data))
    return PassContext(
        find_target("x86-64-v3"),
        evaluate=evaluate_constants,
        calibration=evidence.calibration,
        judge=evidence.judge,
    )


def samples(module: Module, count: int = 400) -> dict[str, np.ndarray]:
    (port,) = module.inputs
    draw = np.random.default_rng(0)
    return {port.name: draw.standard_normal((count, *port.type.shape[1:])).astype(np.float32)}


def seen_by(context: PassContext) -> list[np.ndarray]:
    assert context.calibration is not None
    return [next(iter(batch.inputs.values())) for batch in context.calibration.batches]


@settings(max_examples=30, deadline=None)
@given(graph=st.one_of(image_nets(), text_nets()), seed=st.integers(0, 99))
def test_a_walk_shows_what_running_the_graph_shows(graph: Graph, seed: int) -> None:
    module = module_of(graph)
    draw = np.random.default_rng(seed)
    calls = [
        {
            port.name: draw.standard_normal(port.type.shape)
            if port.type.dtype.is_float
            else draw.integers(0, 7, port.type.shape)
            for port in module.inputs
        }
        for _ in range(3)
    ]
    walk = ReferenceWalk(module, [Batch(inputs, 1, 1) for inputs in calls], 3, ())
    expected = []
    for inputs in calls:
        values: dict[object, np.ndarray] = {}
        tensors = [torch.from_numpy(inputs[port.name]) for port in module.inputs]
        run_graph(
            graph,
            tensors,
            observe=lambda node, found, values=values: values.update(
                zip(node.outputs, (item.numpy() for item in found), strict=True)
            ),
        )
        expected.append(values)
    for node in graph.nodes:
        for value in node.inputs:
            assert value in graph.constants or walk.has(value)
        ahead = list(walk.results(node))
        walk.until(node.outputs[0])
        for call, array in enumerate(walk.at(node.outputs[0])):
            wanted = expected[call][node.outputs[0]]
            # Sums of many calls at once go another way round: units of the largest number.
            unit = 1e-12 * max(1.0, float(np.abs(wanted).max(initial=0)))
            np.testing.assert_allclose(array, wanted, rtol=1e-12, atol=unit)
            np.testing.assert_array_equal(array, ahead[call])
    assert walk.graph is graph
    assert {value for value in graph.values() if walk.has(value)} == {
        *graph.outputs,
    } - graph.constants.keys()


@st.composite
def convolutions(draw: Callable[..., object]) -> tuple[Conv, tuple[int, ...], tuple[int, ...]]:
    """A convolution, its input's shape and its weight's."""
    rank = draw(st.integers(1, 3))
    small = st.integers(1, 2)
    groups, narrow, wide = draw(small), draw(small), draw(small)
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    last = draw(st.booleans())
    op = Conv(
        tuple(draw(small) for _ in range(rank)),
        tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(rank)),
        tuple(draw(small) for _ in range(rank)),
        groups,
        last,
    )
    spatial = tuple(draw(st.integers(5, 7)) for _ in range(rank))
    channels = groups * narrow
    shape = (2, *spatial, channels) if last else (2, channels, *spatial)
    return op, shape, (groups * wide, narrow, *kernel)


@settings(max_examples=60, deadline=None)
@given(problem=convolutions())
def test_windows_times_weights_are_the_convolution(
    problem: tuple[Conv, tuple[int, ...], tuple[int, ...]],
) -> None:
    op, shape, weights = problem
    draw = np.random.default_rng(0)
    builder = Builder()
    x = builder.input(TensorType(shape, DType.F64))
    weight = draw.standard_normal(weights)
    graph = builder.build([builder.emit(op, x, builder.constant(constant(weight)))])
    (node,) = graph.nodes
    array = draw.standard_normal(shape)
    (result,) = run_graph(graph, [torch.from_numpy(array)])
    places = draw.permutation(places_of(node))[:5]
    rows = inputs_at(node, array, places)
    matrix = weight.reshape(op.groups, weights[0] // op.groups, -1)
    found = np.einsum("pgk,gok->pgo", rows, matrix).reshape(len(places), -1)
    wanted = outputs_at(result.numpy(), channel_axis(node), places)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_what_is_redundant_comes_back_as_it_was() -> None:
    """Features that repeat others are pruned; the fit finds the weights that make up for them."""
    module = parse(CHAIN)
    (graph,) = module.graphs
    constants = {}
    for value, item in graph.constants.items():
        array = np.array(item.array)
        if value.hint in ("w", "b"):
            array[6:] = 0.1 * array[:2]
        if value.hint == "v":
            array[:, 6:] *= 0.3
        constants[value] = constant(array)
    module = module.with_graphs((replace(graph, constants=constants),))
    context = opened(module, samples(module))
    pruned = Pipeline.parse("prune-channels{ratio=0.25,align=1}").run(module, context)
    fitted = Pipeline.parse("reconstruct-weights{ridge=0}").run(pruned, context)
    x = torch.randn(4, 6)
    (wanted,), (lost,), (found,) = (
        run(item, {"x": x}).outputs.values() for item in (module, pruned, fitted)
    )
    assert float((lost - wanted).abs().max()) > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_fit_is_the_least_squares_solution() -> None:
    module = parse(CHAIN)
    context = opened(module, samples(module))
    pruned = Pipeline.parse("prune-channels{ratio=0.5,align=1}").run(module, context)
    fitted = Pipeline.parse("reconstruct-weights{ridge=0,calls=0}").run(pruned, context)
    last = pruned.graphs[0].nodes[-1]
    reads, wanted = [], []
    for x in seen_by(context):
        arrays: dict[object, torch.Tensor] = {}
        run_graph(
            pruned.graphs[0],
            [torch.from_numpy(x)],
            observe=lambda node, found, arrays=arrays: arrays.update(
                zip(node.outputs, found, strict=True)
            ),
        )
        reads.append(arrays[last.inputs[0]].numpy())
        wanted.append(next(iter(run(module, {"x": torch.from_numpy(x)}).outputs.values())).numpy())
    rows = np.concatenate(reads).astype(np.float64)
    rows = np.concatenate([rows, np.ones((len(rows), 1))], 1)
    best, *_ = np.linalg.lstsq(rows, np.concatenate(wanted), rcond=None)
    final = fitted.graphs[0].nodes[-1]
    weight, bias = (fitted.graphs[0].constants[value].array for value in final.inputs[1:])
    np.testing.assert_allclose(weight, best[:-1].T, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(bias, best[-1], rtol=1e-3, atol=1e-4)


def test_means_and_variances_are_the_originals() -> None:
    module = parse(CHAIN)
    context = opened(module, samples(module))
    pruned = Pipeline.parse("prune-channels{ratio=0.5,align=1}").run(module, context)
    matched = Pipeline.parse("match-statistics{calls=0}").run(pruned, context)
    outputs = {
        name: np.concatenate(
            [
                next(iter(run(item, {"x": torch.from_numpy(x)}).outputs.values())).numpy()
                for x in seen_by(context)
            ]
        )
        for name, item in {"original": module, "pruned": pruned, "matched": matched}.items()
    }
    wanted = outputs["original"]
    for name, close in (("pruned", False), ("matched", True)):
        same = np.allclose(outputs[name].mean(0), wanted.mean(0), atol=1e-3) and np.allclose(
            outputs[name].std(0), wanted.std(0), rtol=1e-3
        )
        assert same == close


@pytest.mark.parametrize("recovery", RECOVERY)
def test_pruning_twice_is_still_compared_with_the_original(recovery: str) -> None:
    module = parse(CHAIN)
    context = opened(module, samples(module))
    step = f"prune-channels{{ratio=0.25,align=1}},{recovery}"
    Pipeline.parse(f"{step},{step}").run(module, context)
    assert context.lineage.original is module
    mended = [finding for finding in context.diagnostics if finding.code == "N0313"]
    assert len(mended) >= 2


@pytest.mark.parametrize("recovery", RECOVERY)
def test_without_pruning_or_data(recovery: str) -> None:
    module = parse(CHAIN)
    bare = PassContext(find_target("x86-64-v3"), evaluate=evaluate_constants)
    assert Pipeline.parse(recovery).run(module, bare) is module
    with pytest.raises(OptcError, match="E0134"):
        Pipeline.parse(f"prune-channels{{ratio=0.5,align=1}},{recovery}").run(module, bare)


class Residual(torch.nn.Module):
    """A small network with convolutions, a shortcut, a depthwise layer and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        n = torch.nn
        self.stem = n.Sequential(n.Conv2d(1, 16, 3, padding=1), n.BatchNorm2d(16), n.ReLU())
        self.block = n.Sequential(
            n.Conv2d(16, 32, 1), n.ReLU(), n.Conv2d(32, 32, 3, padding=1, groups=32), n.ReLU(),
            n.Conv2d(32, 16, 1), n.BatchNorm2d(16),
        )  # fmt: skip
        self.head = n.Linear(16 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.nn.functional.max_pool2d(torch.relu(x + self.block(x)), 2)
        return self.head(x.flatten(1))


def test_recovery_on_real_data() -> None:
    """Digits, a third of the channels gone: held-out agreement rises with either pass."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor((images / 16).reshape(-1, 1, 8, 8), dtype=torch.float32)
    torch.manual_seed(0)
    model, truth = Residual(), torch.tensor(labels)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(60):
        rows = torch.randperm(1000)[:200]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels[rows]), truth[rows]).backward()
        optimizer.step()
    captured = optc.capture(model.eval(), (pixels[:20],))
    context = opened(captured, {captured.inputs[0].name: pixels[1000:].numpy()})
    module = Pipeline.parse("canonicalize").run(captured, context)
    kept = {}
    fitted = "rounds=2,recover=reconstruct-weights"
    for recovery in ("", *RECOVERY, "rounds"):
        fresh = opened(captured, {captured.inputs[0].name: pixels[1000:].numpy()})
        options, last = (fitted, "") if recovery == "rounds" else ("rounds=1", recovery)
        text = f"prune-channels{{ratio=0.5,align=1,{options}}},{last}".rstrip(",")
        after = Pipeline.parse(text).run(module, fresh)
        kept[recovery] = fresh.needed_judge("test").quality(after).value
    assert kept["match-statistics"] > kept[""] + 0.05, kept
    assert kept["reconstruct-weights"] > kept["match-statistics"], kept
    assert kept["rounds"] > kept["reconstruct-weights"], kept
