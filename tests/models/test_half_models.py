"""Models in f16 and bf16: compiled for this machine, as near to the truth as PyTorch's own halves.

The truth is the model in f32 with the same, already rounded, weights and inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import optc


class Block(nn.Module):
    """A transformer block: norms, causal attention of four heads, GELU."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.before(x)).reshape(batch, length, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.between(x))))


class Sequence(nn.Module):
    """An LSTM's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 24, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


def convolutional() -> nn.Module:
    """Dense, depthwise and pointwise convolutions, batch and group norm, both poolings."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.Hardswish(),
        nn.Conv2d(16, 32, 1), nn.MaxPool2d(2), nn.GroupNorm(4, 32), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


MODELS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn": (convolutional, (2, 3, 32, 32)),
    "transformer": (Block, (2, 24, 64)),
    "lstm": (Sequence, (2, 7, 16)),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_as_near_to_the_truth_as_pytorch(name, dtype, tmp_path):
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model, x = make().eval().to(dtype), torch.randn(shape).to(dtype)
    with torch.no_grad():
        truth = copy.deepcopy(model).float()(x.float())
        theirs = model(x)
    result = optc.compile(optc.capture(model, (x,)), out=tmp_path / "out")
    bits = x.view(torch.uint16) if dtype is torch.bfloat16 else x  # numpy has no bfloat16
    ours = torch.from_numpy(np.asarray(optc.load(result.path)(bits.numpy()))).view(dtype)
    assert ours.shape == truth.shape
    step = torch.finfo(dtype).eps * truth.abs().max()  # the result's own rounding, at most
    assert error(ours, truth) <= 2 * max(error(theirs, truth), step)
    assert error(ours, theirs.float()) <= 3 * max(error(theirs, truth), step)


def error(found: Tensor, truth: Tensor) -> Tensor:
    """The largest difference."""
    return (found.float() - truth).abs().max()
