"""Models that are here for one feature: recurrence, bags, dictionaries, complex numbers, state."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.models.entry import Example, generator, randomize


class Recurrent(nn.Module):
    """Two layers of bidirectional LSTM, then a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(64, 48, batch_first=True)
        self.head = nn.Linear(48, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.gru(self.lstm(x)[0])
        return self.head(y[:, -1])


def recurrent() -> Example:
    """LSTM and GRU over 20 steps."""
    return randomize(Recurrent()), (torch.randn(2, 20, 24, generator=generator(1)),)


class BagAndTop(nn.Module):
    """An embedding bag whose offsets are inputs, scored; the five best scores and their places."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(500, 32, mode="mean")
        self.score = nn.Linear(32, 200)

    def forward(
        self, words: torch.Tensor, starts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        values, places = self.score(self.bag(words, starts)).topk(5)
        return values, places


def bag_and_top() -> Example:
    """Embedding bag and top-k."""
    words = torch.randint(0, 500, (30,), generator=generator(2))
    return randomize(BagAndTop()), (words, torch.tensor([0, 7, 7, 19]))


class TwoInputs(nn.Module):
    """Two inputs, and a dictionary that nests as output."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(16, 32), nn.Linear(8, 32)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, object]:
        a, b = self.left(left), self.right(right)
        return {
            "sum": a + b,
            "parts": {"left": a.relu(), "right": b.tanh()},
            "dot": (a * b).sum(-1),
        }


def two_inputs() -> Example:
    """Two inputs and a dictionary output."""
    inputs = (torch.randn(4, 16, generator=generator(3)), torch.randn(4, 8, generator=generator(4)))
    return randomize(TwoInputs()), inputs


class SpectralMix(nn.Module):
    """A convolution over time by FFT, its spectrum constant: LMUFormer (Liu et al. 2024)."""

    def __init__(self, length: int = 64, width: int = 16) -> None:
        super().__init__()
        kernel = torch.randn(width, length, generator=generator(6)) * torch.exp(
            -torch.arange(length) / 16
        )
        self.register_buffer("spectrum", torch.fft.rfft(kernel, n=2 * length))
        self.mix = nn.Linear(width, width)
        self.length = length

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = torch.fft.rfft(x.transpose(1, 2), n=2 * self.length)
        y = torch.fft.irfft(u * self.spectrum, n=2 * self.length)[..., : self.length]
        return self.mix(y.transpose(1, 2)).relu()


def spectral() -> Example:
    """Complex rfft and irfft."""
    return randomize(SpectralMix()), (torch.randn(1, 64, 16, generator=generator(7)),)


class Counter(nn.Module):
    """A running mean kept in a buffer from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        self.mean.add_((x.mean(0) - self.mean) / self.count)
        return x - self.mean


def counter() -> Example:
    """A model with state."""
    return Counter().eval(), (torch.randn(4, 8, generator=generator(8)),)
