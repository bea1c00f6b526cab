"""Small models that the tests of capture share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from optc.backends.reference.evaluate import run
from optc.ir.capture import capture
from optc.ir.module import Module
from optc.ir.verify import verify


class Net(nn.Module):
    """A linear layer and an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x))


@dataclass
class Answer:
    """A dataclass that a model returns."""

    score: Tensor
    rest: tuple[Tensor, Tensor]


torch.export.register_dataclass(Answer, serialized_type_name="tests.Answer")


class Nested(nn.Module):
    """Nested inputs, keyword inputs and a dataclass output."""

    def forward(self, batch: dict[str, Any], *, extra: list[Tensor]) -> Answer:
        x = batch["input_ids"]
        return Answer(x + batch["pair"][1], (x * 2, extra[0]))


class Counter(nn.Module):
    """A buffer that counts calls, and a cache of the last rows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("cache", torch.zeros(4, 3))

    def forward(self, row: Tensor) -> dict[str, Tensor]:
        self.cache.copy_(torch.cat([self.cache[1:], row[None]]))
        self.count += 1
        return {"mean": self.cache.mean(0), "calls": self.count.clone()}


class Tokens(nn.Module):
    """Shape arithmetic on dynamic dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.table(input_ids)
        places = torch.arange(x.shape[1], device=x.device)
        x = x + places[None, :, None]
        return x.reshape(x.shape[0] * x.shape[1], -1) / x.shape[1]


def dynamic_tokens() -> ExportedProgram:
    """`Tokens` with both dimensions open."""
    shape = {0: Dim("batch", min=1, max=16), 1: Dim("seq", min=2, max=64)}
    ids = torch.zeros(2, 5, dtype=torch.int64)
    return export(Tokens().eval(), (ids,), dynamic_shapes={"input_ids": shape})


def check(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    tolerance: float = 1e-5,
) -> Module:
    """Capture, evaluate on the examples, and compare all tensor outputs with the model's."""
    model.eval()
    captured = capture(model, args, example_kwargs=kwargs)
    assert not verify(captured)
    tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if torch.is_tensor(x)]
    names = [port.name for port in captured.inputs]
    with torch.no_grad():
        wanted = torch.utils._pytree.tree_leaves(model(*args, **(kwargs or {})))
    found = run(captured, dict(zip(names, map(plain, tensors), strict=True))).outputs
    expected = [plain(x) for x in wanted if torch.is_tensor(x)]
    for mine, theirs in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
    return captured


def plain(x: Tensor) -> Tensor:
    """A complex tensor as pairs."""
    return torch.view_as_real(x) if x.is_complex() else x
