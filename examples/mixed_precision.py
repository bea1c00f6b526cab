"""Bits by the layer within a budget: f32, int8 and a mixed plan of one network, on digits.

    python examples/mixed_precision.py

trains a small convolutional network on scikit-learn's digits and compiles it three times: as it is,
in 8 bits, and with `assign-precision`, which measures what each layer loses in each form and takes
the smallest plan that keeps the accuracy within two points. It says of every layer why.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import optc

TRAIN, BATCH = 700, 1  # images to train with; the others are the compiler's
PLANS = {"f32": "", "int8": "quantize", "mixed": "assign-precision{objective=size}"}


def network() -> nn.Module:
    """Two convolutions and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    """Adam and cross entropy."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()


def main(folder: Path = Path("mixed-out"), epochs: int = 20) -> dict[str, tuple[int, float]]:
    """Bytes of weights, and accuracy on held-out images, of each plan."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).reshape(-1, 1, 8, 8).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order].astype(np.int64)
    model = network()
    train(model, torch.from_numpy(images[:TRAIN]), torch.from_numpy(labels[:TRAIN]), epochs)
    captured = optc.capture(model.eval(), (images[:BATCH],))
    (port,) = captured.inputs
    data = {port.name: images[TRAIN:], "labels": labels[TRAIN:]}
    found = {}
    for name, passes in PLANS.items():
        made = optc.compile(
            captured, out=folder / name, passes=passes, data=data, labels="labels",
            accuracy_drop=0.02,
        )  # fmt: skip
        assert made.quality is not None
        nbytes = (made.path / "weights.bin").stat().st_size
        found[name] = nbytes, made.quality.difference.after.value
        print(f"{name}: {nbytes} bytes, {made.quality.difference.after}")
        for finding in made.diagnostics:
            if finding.code == "N0333":
                print(f"    {finding.message}")
    return found


if __name__ == "__main__":
    main()
