"""Model files: captured, compiled, compared with PyTorch; and files that are something else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optc.ir.module import Module
from optc.ir.ops import ew
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.rewrite import rewrite
from tests.cli.conftest import Optc


@dataclass(frozen=True)
class Exchange(Pass):
    """Wrong on purpose: relu becomes abs."""

    name = "exchange"
    effect = Effect.EXACT

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with another activation."""
        rules = {ew.Relu: (lambda node, site: site.emit(ew.Abs(), *node.inputs),)}
        return rewrite(module, rules, ctx, code="N0000")


class Classifier(nn.Module):
    """A small model with a dictionary of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.up(x))
        return {"logits": self.down(hidden), "hidden": hidden}


def save(path: str, model: nn.Module, *, dynamic: bool = False) -> torch.Tensor:
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    shapes = ({0: torch.export.Dim("batch", min=1, max=8)},) if dynamic else None
    torch.export.save(torch.export.export(model.eval(), (x,), dynamic_shapes=shapes), path)
    return x


def test_a_model_runs_as_in_pytorch(optc: Optc) -> None:
    torch.manual_seed(0)
    model = Classifier()
    x = save("m.pt2", model)
    result = optc("compile", "m.pt2", "-o", "out", "--no-bench")
    assert (result.code, result.diagnostics) == (0, [])
    np.savez("x.npz", x=x.numpy())
    assert optc("run", "out", "-i", "x.npz", "-o", "y.npz").code == 0
    found = np.load("y.npz")
    for name, tensor in model(x).items():
        np.testing.assert_allclose(found[name], tensor.detach().numpy(), atol=1e-5)
    assert optc("diff", "m.pt2", "out").code == 0


def test_source_lines_reach_the_artifact(optc: Optc) -> None:
    save("m.pt2", Classifier())
    assert optc("compile", "m.pt2", "-o", "out", "--no-bench").code == 0
    assert "test_models.py:" in optc("inspect", "out").out


def test_nan_weights_are_named(optc: Optc) -> None:
    model = Classifier()
    with torch.no_grad():
        model.down.weight[0, 0] = torch.nan
    save("m.pt2", model)
    result = optc("compile", "m.pt2", "-o", "out", "--no-bench")
    assert (result.code, result.diagnostics) == (0, ["W0240"])
    assert "down.weight" in result.err


def test_dynamic_dims_are_asked_for_and_fixed(optc: Optc) -> None:
    save("m.pt2", Classifier(), dynamic=True)
    result = optc("compile", "m.pt2", "-o", "out")
    assert result.code == 1
    assert len(result.diagnostics) == 1
    assert "batch" in result.err
    assert optc("compile", "m.pt2", "-o", "out", "--no-bench", "--shape", "batch=2").code == 0
    assert "x: 2x16xf32" in optc("inspect", "out").out
    wrong = optc("compile", "m.pt2", "-o", "out", "--shape", "batch=99")
    assert (wrong.code, len(wrong.diagnostics)) == (1, 1)
    unknown = optc("compile", "m.pt2", "-o", "out", "--shape", "bach=2")
    assert (unknown.code, len(unknown.diagnostics)) == (1, 1)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_archive(optc: Optc, keep: float) -> None:
    save("m.pt2", Classifier())
    data = Path("m.pt2").read_bytes()
    Path("m.pt2").write_bytes(data[: int(len(data) * keep)])
    result = optc("compile", "m.pt2", "-o", "out")
    assert result.code == 1
    assert len(result.diagnostics) == 1
    assert result.diagnostics[0].startswith("E02")
    assert not Path("out").exists()


def test_a_pickled_module_is_refused_unless_asked_for(optc: Optc) -> None:
    torch.save(nn.Linear(16, 4), "m.pt")
    refused = optc("compile", "m.pt", "-o", "out")
    assert (refused.code, len(refused.diagnostics)) == (1, 1)
    assert "torch.export" in refused.err
    np.savez("x.npz", np.zeros((2, 16), dtype=np.float32))
    taken = optc(
        "compile", "m.pt", "-o", "out", "--no-bench", "--unsafe-load", "--example", "x.npz"
    )
    assert taken.code == 0
    assert taken.diagnostics
    assert all(code.startswith("W02") for code in taken.diagnostics)


@pytest.mark.parametrize("dialect", ["linalg", "tosa"])
def test_a_model_as_mlir(optc: Optc, dialect: str) -> None:
    save("m.pt2", Classifier())
    result = optc("compile", "m.pt2", "-o", "m.mlir", "--emit", dialect)
    assert (result.code, result.diagnostics) == (0, [])
    assert f"{dialect}." in Path("m.mlir").read_text()


def test_diff_names_the_pass_that_broke_the_model(
    optc: Optc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that exchanges relu and abs is planted; compiling and replaying both run it."""
    from optc.passes import catalogue

    place = f"{__name__}:Exchange"
    monkeypatch.setattr(catalogue, "BUILT_IN", {**catalogue.BUILT_IN, "exchange": place})
    save("m.pt2", Classifier())
    assert optc("compile", "m.pt2", "-o", "out", "--no-bench", "-p", "exchange").code == 0
    result = optc("diff", "m.pt2", "out")
    assert (result.code, result.diagnostics) == (1, ["E0721"])
    assert "after pass exchange" in result.err
    assert "abs" in result.err
    assert "test_models.py:" in result.err


def test_diff_names_the_kernel_that_computes_something_else(
    optc: Optc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong lowering of relu is planted, for the compilation and for the search."""
    from optc.backends.tvm.lower import table

    monkeypatch.setattr(table, "LOWER", {**table.LOWER, ew.Relu: table.LOWER[ew.Abs]})
    save("m.pt2", Classifier())
    assert optc("compile", "m.pt2", "-o", "out", "--no-bench").code == 0
    result = optc("diff", "m.pt2", "out")
    assert (result.code, result.diagnostics) == (1, ["E0722"])
    assert "test_models.py:" in result.err


def test_diff_names_the_tuned_kernel_that_computes_something_else(
    optc: Optc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong relu is planted in a setting that only records choose."""
    import optc as api
    from optc.autotune.records import Record, append
    from optc.autotune.task import tasks_of
    from optc.backends.tvm.lower import table
    from optc.backends.tvm.templates import gemm
    from optc.driver import lower_module
    from optc.ir.targets.detect import host

    right = gemm.GemmPlan.emit

    def emit(plan: gemm.GemmPlan, symbol: str, knobs: Any) -> Any:
        if knobs == plan.candidates()[0]:
            return right(plan, symbol, knobs)
        with monkeypatch.context() as patch:
            patch.setattr(table, "LOWER", {**table.LOWER, ew.Relu: table.LOWER[ew.Abs]})
            wrong = gemm.Gemm().match(plan.task.problem)
            assert isinstance(wrong, gemm.GemmPlan)
            return right(wrong, symbol, knobs)

    monkeypatch.setattr(gemm.GemmPlan, "emit", emit)
    save("m.pt2", Classifier())
    tasks = tasks_of(lower_module(api.capture("m.pt2"), host()), host())
    task = next(t for t in tasks if any(n.op == ew.Relu() for n in t.job.body.nodes))
    times = ((task.candidates[0], 2e-6), (task.candidates[1], 1e-6))
    found = [Record(task.key, task.name, task.template, repr(k), s) for k, s in times]
    append(Path("r.jsonl"), found)
    assert optc("compile", "m.pt2", "-o", "out", "--no-bench", "--records", "r.jsonl").code == 0
    result = optc("diff", "m.pt2", "out")
    assert (result.code, result.diagnostics) == (1, ["E0722"])


class Amplifier(nn.Module):
    """The last bits of a hidden value, which no two ways of adding agree on."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 32)
        self.pick = nn.Linear(32, 32, bias=False)
        # Products with a power of two, and sums with zeros, are exact.
        self.pick.weight = nn.Parameter(torch.eye(32).flip(0) * 2.0**17)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large = self.pick(torch.tanh(self.up(x)))
        return large - torch.floor(large)


def test_diff_names_the_kernel_where_errors_add_up(optc: Optc) -> None:
    torch.manual_seed(0)
    save("m.pt2", Amplifier())
    assert optc("compile", "m.pt2", "-o", "out", "--no-bench").code == 0
    result = optc("diff", "m.pt2", "out")
    assert (result.code, result.diagnostics) == (1, ["E0727"])
    assert "when each kernel is given what those before it computed" in result.err
    assert "test_models.py:" in result.err
