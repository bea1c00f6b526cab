"""A small classifier with something to exit from: digits of 8x8 pixels, trained in a second."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import optc
from optc.ir.module import Module

LEARNT = 600  # samples to train on; the others are the compiler's


class Digits(nn.Module):
    """Three blocks, each with a head; the later blocks are the wider ones."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(64, 24), nn.Linear(24, 96), nn.Linear(96, 256)])
        self.heads = nn.ModuleList([nn.Linear(24, 10), nn.Linear(96, 10), nn.Linear(256, 10)])

    def forward(self, x: torch.Tensor) -> Any:
        """Three tensors [rows, 10] for pixels [rows, 64]."""
        found = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = torch.relu(block(x))
            found.append(head(x))
        return tuple(found)


class Last(nn.Module):
    """The last head alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores [rows, 10]."""
        scores: torch.Tensor = self.net(x)[-1]
        return scores


@cache
def digits() -> tuple[Digits, dict[str, np.ndarray]]:
    """The trained net, and data that it has not seen."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    torch.manual_seed(0)
    net = Digits()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    x, y = torch.from_numpy(pixels[:LEARNT]), torch.from_numpy(labels[:LEARNT]).long()
    for _ in range(120):
        loss = sum(functional.cross_entropy(scores, y) for scores in net(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    data = {"x": pixels[LEARNT:], "labels": labels[LEARNT:].astype(np.int64)}
    return net.eval(), data


def captured(*, own: bool, rows: int = 1) -> Module:
    """The net as a module, with its heads or without, for calls of some rows."""
    net, data = digits()
    return optc.capture(net if own else Last(net), (torch.from_numpy(data["x"][:rows]),))
