"""The Python front door: what the command line can do, it can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import optc
from optc.cache import default_cache
from optc.ir.diagnostics import Diagnostic


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3


X = np.ones((2, 4), np.float32)


def test_a_pickled_module_is_taken_on_request_only(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save(nn.Sequential(nn.Linear(4, 2)), path)
    with pytest.raises(optc.OptcError, match="E0203"):
        optc.capture(path, {"input": X})
    found: list[Diagnostic] = []
    module = optc.capture(path, {"input": X}, unsafe_load=True, diagnostics=found)
    assert [port.name for port in module.inputs] == ["input"]
    assert "W0242" in [item.code for item in found]


def test_the_cache_is_where_the_caller_says(tmp_path: Path) -> None:
    module = optc.capture(Scaled(), (X,))
    compiled = optc.compile(module, out=tmp_path / "out", cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "runtime").iterdir())
    assert np.array_equal(optc.load(compiled.path)(X), 3 * X)


def test_the_cache_is_that_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optc.cli.options import cache_folder

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == default_cache() == tmp_path / ".cache" / "optc"
    optc.compile(optc.capture(Scaled(), (X,)), out=tmp_path / "out")
    assert list((default_cache() / "runtime").iterdir())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "optc"


def test_a_folder_compiled_into_again_is_loaded_anew(tmp_path: Path) -> None:
    runs = []
    for width in (3, 5):
        model = nn.Linear(4, width)
        optc.compile(optc.capture(model, (X,)), out=tmp_path / "out")
        runs.append((model, optc.load(tmp_path / "out")))  # the first is still at work
    for model, run in runs:
        assert np.allclose(run(X), model(torch.from_numpy(X)).detach(), atol=1e-6)


def test_a_machine_without_temporary_files_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optc.compile(optc.capture(Scaled(), (X,)), out=tmp_path / "out")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert np.array_equal(optc.load(tmp_path / "out")(X), 3 * X)
