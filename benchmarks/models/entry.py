"""What a model entry is made of: a module, example inputs, and seeds."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

Example = tuple[nn.Module, tuple[Any, ...]]


def generator(seed: int = 0) -> torch.Generator:
    """Numbers that are the same in every run."""
    return torch.Generator().manual_seed(seed)


def image(size: int, batch: int = 1) -> torch.Tensor:
    """A standard normal image."""
    return torch.randn(batch, 3, size, size, generator=generator(1))


def tokens(length: int, vocabulary: int = 1000, batch: int = 1) -> torch.Tensor:
    """Token numbers."""
    return torch.randint(1, vocabulary, (batch, length), generator=generator(2))


def randomize(model: nn.Module) -> nn.Module:
    """Seeded weights that keep activations near unit size, batch-norm statistics included."""
    source = generator(3)
    for name, item in [*model.named_parameters(), *model.named_buffers()]:
        if not item.is_floating_point():
            continue
        with torch.no_grad():
            if name.endswith("running_var"):
                item.uniform_(0.5, 1.5, generator=source)
            elif item.dim() > 1:
                item.normal_(0, (2 / item[0].numel()) ** 0.5 * 0.7, generator=source)
            elif name.endswith("weight"):
                item.uniform_(0.8, 1.2, generator=source)
            else:
                item.normal_(0, 0.1, generator=source)
    return model.eval()


class Logits(nn.Module):
    """A transformers model that gives one tensor: its logits, or its last hidden state."""

    def __init__(self, model: nn.Module, field: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.field, self.options = model, field, options

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The field of the model's output."""
        result: torch.Tensor = getattr(self.model(*inputs, **self.options), self.field)
        return result


def from_config(
    family: str,
    task: str,
    options: dict[str, Any],
    inputs: tuple[Any, ...],
    *,
    field: str = "logits",
    call: dict[str, Any] | None = None,
) -> Example:
    """A transformers model of `family`: the library's architecture, seeded random weights."""
    library = importlib.import_module("transformers")
    config = getattr(library, f"{family}Config")(**options)
    torch.manual_seed(0)
    model = getattr(library, f"{family}{task}")(config)
    return Logits(model.eval(), field, call or {}), inputs
