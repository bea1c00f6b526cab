"""Resampling with antialiasing, against PyTorch in f64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import optc

X = torch.linspace(-1, 1, 2 * 3 * 13 * 17, dtype=torch.float64).sin().reshape(2, 3, 13, 17)


class Resampled(nn.Module):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, antialias=True, **self.options)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    "extents",
    [
        {"size": (7, 5)},
        {"size": (20, 40)},
        {"size": (13, 5)},
        {"size": (1, 1)},
        {"scale_factor": (0.37, 1.7)},
        {"scale_factor": (0.37, 1.7), "recompute_scale_factor": True},
    ],
)
def test_it_is_torch(extents: dict[str, Any], mode: str, align: bool) -> None:
    if mode == "lanczos" and align:
        pytest.skip("torch has no such mode")
    model = Resampled({"mode": mode, "align_corners": align, **extents}).eval()
    expected = model(X)
    found = optc.to_torch(optc.capture(model, (X,)))(X)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-12


def test_halves_are_added_up_in_floats() -> None:
    model = Resampled({"size": (3, 3), "mode": "bicubic"}).eval()
    found = optc.to_torch(optc.capture(model, (X.half(),)))(X.half())
    assert found.dtype is torch.float16
    assert (found.double() - model(X)).abs().max() < 1e-3
