"""Modules back to PyTorch: same numbers, trainable, updated in place, captured again."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from optc import to_torch
from optc.backends.reference.evaluate import run
from optc.ir.capture import capture
from tests.ir.capture.models import Counter


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        return {"logits": self.head(x) * scale}


INPUTS = (torch.randn(2, 3, 8, 8), torch.ones(2))


def test_same_numbers_and_names() -> None:
    """Parameters keep their names; what batch norms measured is no parameter."""
    model = _Small().eval()
    again = to_torch(capture(model, INPUTS))
    torch.testing.assert_close(again(*INPUTS), model(*INPUTS))
    torch.testing.assert_close(again(scale=INPUTS[1], image=INPUTS[0]), model(*INPUTS))
    assert {n for n, _ in again.named_parameters()} == {n for n, _ in model.named_parameters()}
    assert {n for n, _ in again.named_buffers()} == {"norm.running_mean", "norm.running_var"}


def test_training_changes_the_copy_alone() -> None:
    """Gradients reach every parameter, and the captured module keeps its weights."""
    module = capture(_Small().eval(), INPUTS)
    before = run(module, dict(zip(("image", "scale"), INPUTS, strict=True))).outputs["logits"]
    trained = copy.deepcopy(to_torch(module))
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.5)
    trained(*INPUTS)["logits"].square().sum().backward()
    assert all(parameter.grad is not None for parameter in trained.parameters())
    optimizer.step()
    after = run(module, dict(zip(("image", "scale"), INPUTS, strict=True))).outputs["logits"]
    assert torch.equal(before, after)
    assert not torch.allclose(trained(*INPUTS)["logits"], before)


def test_captured_again() -> None:
    """The round trip keeps ports and numbers."""
    module = capture(_Small().eval(), INPUTS)
    again = capture(to_torch(module).eval(), INPUTS)
    assert (again.name, again.inputs, again.outputs) == (module.name, module.inputs, module.outputs)
    inputs = dict(zip(("image", "scale"), INPUTS, strict=True))
    torch.testing.assert_close(run(again, inputs).outputs, run(module, inputs).outputs)


def test_states_are_updated_in_place() -> None:
    """As in the model."""
    model = Counter().eval()
    again = to_torch(capture(model, (torch.ones(3),)))
    for _ in range(2):
        torch.testing.assert_close(again(torch.ones(3)), model(torch.ones(3)))
    assert int(again.count) == 2


def test_tuples_and_single_tensors() -> None:
    """Outputs are packed as the model packed them."""
    pair = to_torch(capture(nn.LSTM(3, 4).eval(), (torch.randn(5, 2, 3),)))
    _, (h, c) = pair(torch.randn(5, 2, 3))
    assert h.shape == c.shape == (1, 2, 4)
    both = to_torch(capture(nn.GRU(3, 4).eval(), (torch.randn(5, 2, 3),)))
    assert len(both(torch.randn(5, 2, 3))) == 2
    one = to_torch(capture(nn.Linear(3, 4).eval(), (torch.randn(5, 3),)))
    assert one(torch.randn(5, 3)).shape == (5, 4)
