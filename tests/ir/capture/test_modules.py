"""Ports, states, weights, places and warnings of captured modules."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optc.backends.reference.evaluate import run
from optc.ir.capture import capture
from optc.ir.diagnostics import Diagnostic, OptcError
from optc.ir.ops import Gru, Linear, Lstm
from optc.ir.text import parse, print_module
from tests.ir.capture.models import Counter, Nested, Net, check

X = torch.ones(2, 8)


def test_names_of_nested_inputs_and_outputs() -> None:
    """Dotted paths in, dictionary keys and field names out."""
    captured = check(Nested(), ({"input_ids": X, "pair": (X, X)},), {"extra": [X]})
    names = [port.name for port in captured.inputs]
    assert names == ["batch.input_ids", "batch.pair.0", "batch.pair.1", "extra.0"]
    assert [port.name for port in captured.outputs] == ["score", "rest.0", "rest.1"]


def test_names_of_plain_outputs() -> None:
    """One tensor is `output`, a tuple is numbered, a clash with an input is resolved."""

    class Tuple(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, None, dict[str, Tensor]]:
            return x + 1, None, {"a": x * 2}

    class Same(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x": x + 1, "same": x, "const": torch.ones(2)}

    assert check(Net(), (X,)).outputs[0].name == "output"
    assert [p.name for p in check(Tuple(), (X,)).outputs] == ["output.0", "output.2.a"]
    assert [p.name for p in check(Same(), (X,)).outputs] == ["output.x", "same", "const"]


def test_what_is_returned_keeps_its_structure() -> None:
    """Keys as they are, None in its place; nothing is said where it is one tensor or a tuple."""

    class Deep(nn.Module):
        def forward(self, x: Tensor) -> dict[str, object]:
            return {"a b": x + 1, "a_b": [x * 2, None, (x - 1,)], "none": {}, "7": (), "x": x * 3}

    captured = check(Deep(), (X,))
    assert [port.name for port in captured.outputs] == ["a_b", "a_b.0", "a_b.2.0", "output.x"]
    text = print_module(captured)
    assert (
        'returns {"a b": a_b, "a_b": [a_b.0, none, (a_b.2.0,)], "none": {}, "7": (),'
        ' "x": output.x}' in text
    )
    assert parse(text).returns == captured.returns
    assert check(Net(), (X,)).returns is None
    assert check(nn.GRU(8, 4), (X,)).returns is None
    assert "returns [output.0]" in print_module(check(_Row(), (X,)))


class _Row(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x + 1]


def test_text_form_of_a_captured_module() -> None:
    """It prints and parses back."""
    captured = capture(Nested(), ({"input_ids": X, "pair": (X, X)},), example_kwargs={"extra": [X]})
    text = print_module(captured)
    assert print_module(parse(text)) == text


def test_states() -> None:
    """Buffers that the model updates carry over from call to call."""
    model = Counter()
    captured = capture(model.eval(), (torch.ones(3),))
    assert [state.name for state in captured.states] == ["count", "cache"]
    states = None
    for step in range(3):
        row = torch.full((3,), float(step))
        result = run(captured, {"row": row}, states)
        states = result.states
        wanted = model(row)
        torch.testing.assert_close(dict(result.outputs), wanted)
    assert states is not None
    assert int(states["count"]) == 3


def test_places_are_the_users() -> None:
    """Every node names this file, a line of the model, and the path of the submodule."""
    (graph,) = capture(_Outer(), (X,)).graphs
    (node,) = (node for node in graph.nodes if isinstance(node.op, Linear))
    first = inspect.getsourcelines(_Outer.forward)[1]
    assert Path(node.loc.file).name == Path(__file__).name
    assert node.loc.line == first + 1
    assert node.loc.scope == "inner.first"


class _Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential()
        self.inner.add_module("first", nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_weights_are_by_reference_and_tied_ones_are_one() -> None:
    """No copies; one constant for a shared parameter."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    (graph,) = capture(model.eval(), (X,)).graphs
    (item,) = graph.constants.values()
    assert np.shares_memory(item.array, model[0].weight.detach().numpy())


def test_bf16_weights() -> None:
    """bf16 lies as raw 16-bit words over torch's memory."""
    model = Net().bfloat16().eval()
    captured = check(model, (X.bfloat16(),), tolerance=2e-2)
    item = next(iter(captured.graphs[0].constants.values()))
    assert item.array.dtype == np.uint16


def test_nan_weights_are_warned_of() -> None:
    """The tensor is named."""
    model = Net().eval()
    with torch.no_grad():
        model.first.weight[0, 0] = float("nan")
    found: list[Diagnostic] = []
    capture(model, (X,), diagnostics=found)
    (warning,) = found
    assert warning.code == "W0240"
    assert "first.weight" in warning.message


def test_written_inputs_are_warned_of() -> None:
    """An artifact leaves its inputs alone."""

    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x.add_(1)
            return x * 2

    found: list[Diagnostic] = []
    captured = capture(Writes().eval(), (X.clone(),), diagnostics=found)
    assert [item.code for item in found] == ["W0241"]
    torch.testing.assert_close(run(captured, {"x": X}).outputs["output"], (X + 1) * 2)


def test_all_unsupported_ops_at_once() -> None:
    """Each kind once, with its count, reason and first line; data-dependent and random ones."""

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a = torch.rand_like(x) + torch.rand_like(x)
            b = torch.linalg.svdvals(x)
            return a.sum() + b.sum() + torch.nonzero(x).sum()

    with pytest.raises(OptcError) as caught:
        capture(Odd().eval(), (X,))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E0230"
    assert "random numbers" in diagnostic.excerpt
    assert "nonzero x 1: how much it returns depends on the data" in diagnostic.excerpt
    assert "x 2" in diagnostic.excerpt
    assert Path(__file__).name in diagnostic.excerpt


def test_modes_are_put_back() -> None:
    """Capturing in eval mode leaves every submodule's mode as it was."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    model[0].eval()
    found: list[Diagnostic] = []
    captured = capture(model, (X,), diagnostics=found)
    assert (model.training, model[0].training, model[1].training) == (True, False, True)
    assert [item.code for item in found] == ["W0243"]
    assert len(captured.graphs[0].nodes) == 1


def test_examples_are_needed() -> None:
    """And torch's refusals are passed on."""

    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(OptcError, match="E0220"):
        capture(Net())
    with pytest.raises(OptcError, match="E0221"):
        capture(Branches(), (X,))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_stay_whole(kind: type[nn.RNNBase], bias: bool, batch_first: bool) -> None:
    """One op per layer and direction, whatever the number of steps."""
    layer = kind(5, 6, 2, bidirectional=True, bias=bias, batch_first=batch_first)
    captured = check(layer, (torch.randn(3, 4, 5),))
    (graph,) = captured.graphs
    assert sum(isinstance(node.op, Lstm | Gru) for node in graph.nodes) == 4
    assert [port.name for port in captured.outputs][:2] == [
        "output.0",
        "output.1" if kind is nn.GRU else "output.1.0",
    ]


def test_recurrent_cells_and_single_sequences() -> None:
    """Cells, sequences without a batch, given states."""
    check(nn.LSTMCell(5, 6), (torch.randn(3, 5), (torch.randn(3, 6), torch.randn(3, 6))))
    check(nn.GRUCell(5, 6), (torch.randn(5),))
    check(nn.LSTM(5, 6), (torch.randn(7, 5),))
    check(nn.GRU(5, 6), (torch.randn(7, 2, 5), torch.randn(1, 2, 6)))


def test_complex_numbers() -> None:
    """Pairs at the borders; transforms as products."""

    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("turn", torch.polar(torch.ones(5), torch.arange(5.0)))

        def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, ...]:
            y = torch.fft.rfft(x, norm="ortho") * self.turn
            w = torch.fft.ifft2(z) / (1 + 2j)
            back = torch.fft.irfft(y.conj(), n=8)
            return back, w, y.abs(), torch.view_as_real(z @ z.mT), z.real + z.imag, torch.exp(z)

    z = torch.randn(3, 4, dtype=torch.complex64)
    captured = check(Spectrum(), (torch.randn(2, 8), z))
    assert captured.inputs[1].type.shape == (3, 4, 2)


def test_no_grad_inside_the_model() -> None:
    """Regions of another gradient mode are part of the graph."""

    class Quiet(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = x * 2
            return y + 1

    (graph,) = check(Quiet(), (X,)).graphs
    first = inspect.getsourcelines(Quiet.forward)[1]
    assert [node.loc.line for node in graph.nodes] == [first + 2, first + 3]
