"""A network that needs more memory than it may have: weights come through a window.

    python examples/memory_budget.py

The same network twice, the second time with a third of the memory: its weights stay in the file and
are read ahead of the kernels that use them. Every answer is the same to the last bit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import optc

WIDTH, LAYERS = 768, 6


def network() -> nn.Module:
    """Wide layers: 12 MB of weights for images of 64 pixels."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(64, WIDTH), nn.ReLU()]
    for _ in range(LAYERS - 1):
        layers += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10)).eval()


def main(folder: Path) -> None:
    """Compile with and without a budget, compare answers, and print what each holds."""
    pixels = (load_digits().data / 16).astype(np.float32)
    module = optc.capture(network(), (torch.from_numpy(pixels[:1]),))
    whole = optc.compile(module, out=folder / "whole")
    small = optc.compile(module, out=folder / "small", memory="8MB")
    for name, built in (("whole", whole), ("8 MB", small)):
        peak = built.manifest["peak_bytes"]
        print(
            f"{name:6} holds {peak / 1e6:6.2f} MB, {built.fit.verdict if built.fit else 'mapped'}"
        )
    with optc.load(whole.path) as first, optc.load(small.path) as second:
        same = all(np.array_equal(first(x), second(x)) for x in pixels[:50, None])
    print(f"answers to 50 images are {'the same' if same else 'NOT the same'}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
