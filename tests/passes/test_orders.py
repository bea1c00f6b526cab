"""Any order of the lossy passes works, or is refused with the reason: a small trained network."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import optc
from optc.backends.reference.evaluate import run
from optc.contexts import pass_context
from optc.ir.diagnostics import OptcError
from optc.ir.module import Module
from optc.ir.structural import module_digest
from optc.ir.targets.find import find_target
from optc.ir.verify import verify
from optc.passes.base import PassContext, run_passes
from optc.passes.pipeline import Pipeline
from optc.passes.standard import CANONICALIZE, RAISE
from optc.quality.evidence import DataRequest, Evidence

LEARNT = 700
FOUR = (
    "prune-channels{ratio=0.3,align=1}",
    "match-statistics{calls=8}",
    "insert-exits{n=1}",
    "quantize",
)
OTHERS = (
    *FOUR,
    "reconstruct-weights{calls=8}",
    "quantize-weights",
    "convert-precision{dtype=bf16}",
)
PAIRS = sorted(set(permutations(OTHERS, 2)) - set(permutations(FOUR, 2)))


class Pixels(nn.Module):
    """Two convolutions with a shortcut, so that a block can go, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.first, self.second = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.wide, self.head = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.Linear(32 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores [1, 10] of pixels [1, 1, 8, 8]."""
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.second(torch.relu(self.first(x))))
        found: torch.Tensor = self.head(torch.relu(self.wide(x)).flatten(1))
        return found


@cache
def trained() -> tuple[Module, dict[str, np.ndarray]]:
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    torch.manual_seed(0)
    net = Pixels()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    x, y = torch.from_numpy(pixels[:LEARNT]), torch.from_numpy(labels[:LEARNT]).long()
    for _ in range(25):
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    data = {"x": pixels[LEARNT:], "labels": labels[LEARNT:].astype(np.int64)}
    return optc.capture(net.eval(), (x[:1],)), data


@cache
def evidence() -> Evidence:
    module, data = trained()
    return Evidence(module, DataRequest(dict(data), None, None, 0.2))


def passed(names: tuple[str, ...]) -> tuple[Module | None, PassContext, OptcError | None]:
    """What an order of passes makes, or the refusal."""
    context = pass_context(find_target("host"), evidence=evidence())
    steps = (*CANONICALIZE, *RAISE, *Pipeline.parse(",".join(names)).passes)
    try:
        return run_passes(trained()[0], steps, context), context, None
    except OptcError as problem:
        return None, context, problem


def same(module: Module, folder: Path) -> None:
    """The artifact of a module answers as the reference does, and leaves where it leaves."""
    built = optc.compile(module, "host", out=folder)
    with optc.load(built.path) as artifact:
        for x in trained()[1]["x"][:12, None]:
            with torch.no_grad():
                wanted = run(built.module, {"x": torch.from_numpy(x)})
            before = artifact.exit_runs()
            found: Any = artifact(x)
            after = artifact.exit_runs()
            (scores,) = wanted.outputs.values()
            np.testing.assert_allclose(found, scores.numpy(), rtol=2e-3, atol=2e-3)
            assert [name for name in after if after[name] > before[name]] == [
                name for name in (wanted.exit,) if name
            ]


@cache
def all_orders() -> dict[str, tuple[tuple[str, ...], Module]]:
    """One order for each different module; each of the others is refused with a reason."""
    found = {}
    for names in permutations(FOUR):
        module, context, problem = passed(names)
        if module is None:
            assert problem is not None
            assert all(d.code and d.message for d in problem.diagnostics)
            continue
        assert verify(module) == ()
        found.setdefault(module_digest(module), (names, module))
        pruned, mended, cut, _ = (names.index(name) for name in FOUR)
        if module.flow.exits and pruned < mended:
            codes = {finding.code for finding in context.diagnostics}
            assert ("N0314" if cut < mended else "N0313") in codes, names
    return found


def test_orders_of_the_four_families_compile_and_run_as_they_should(tmp_path: Path) -> None:
    orders = all_orders()
    assert len(orders) >= 4
    assert any(len(module.flow.exits) == 1 for _, module in orders.values())
    for number, (_, module) in enumerate(orders.values()):
        same(module, tmp_path / str(number))


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_pairs_work_or_say_why_not(names: tuple[str, ...]) -> None:
    module, _, problem = passed(names)
    if module is None:
        assert problem is not None
        assert all(d.code and d.message for d in problem.diagnostics)
        return
    assert verify(module) == ()
    x = torch.from_numpy(trained()[1]["x"][:1])
    with torch.no_grad():
        (scores,) = run(module, {"x": x}).outputs.values()
    assert torch.isfinite(scores).all()
