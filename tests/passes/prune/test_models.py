"""Whole models, pruned as they are: they verify and compute what masking does, and compile."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import optc
from benchmarks.models import MODELS
from benchmarks.prune_models import Row, macs, pruned, raised
from optc.backends.reference.evaluate import run
from optc.passes.prune.prune_channels import PruneChannels
from optc.passes.prune.prune_heads import PruneHeads

# What can lose channels, and the share of multiplications that is left at least and at most.
PRUNABLE = {
    "digits-cnn": (0.45, 0.7),
    "mtcnn-pnet": (0.6, 0.9),
    "mtcnn-rnet": (0.5, 0.85),
    "mtcnn-onet": (0.45, 0.75),
    "silero-vad": (0.5, 0.8),
    "mobilenet-v3": (0.5, 0.85),
    "unet": (0.45, 0.7),
    "mixer": (0.45, 0.7),
    "llama": (0.45, 0.75),
    "deit-t": (0.5, 0.8),
    "mamba": (0.5, 0.9),
}
WHOLE = ("recurrent", "two-inputs", "counter")  # all they hold is recurrent, or the caller's
LIMIT = 1e-9  # of the output's range, in f64


def checked(name: str, step: PruneChannels | PruneHeads) -> Row:
    package = MODELS[name].package
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"package {package} is not installed: make venv")
    return pruned(*raised(name), step)


@pytest.mark.parametrize("name", PRUNABLE)
def test_a_model_is_pruned_and_equals_masking(name: str) -> None:
    row = checked(name, PruneChannels())
    low, high = PRUNABLE[name]
    assert low <= macs(row.after) / macs(row.before) <= high
    assert row.error <= LIMIT


@pytest.mark.parametrize("name", WHOLE)
def test_a_model_without_free_channels_stays_the_same_object(name: str) -> None:
    row = checked(name, PruneChannels(align=1))
    assert row.after is row.before
    assert all(remark.startswith(("N0311", "W0315")) for remark in row.remarks)


@pytest.mark.parametrize("name", ["llama", "deit-t"])
def test_heads_leave_with_their_projections(name: str) -> None:
    row = checked(name, PruneHeads(ratio=0.5))
    assert macs(row.after) < macs(row.before)
    assert row.error <= LIMIT


def test_a_pruned_model_compiles_and_runs(tmp_path: Path) -> None:
    model, inputs = MODELS["mixer"].make()
    module = optc.capture(model, inputs)
    compiled = optc.compile(module, passes="prune-channels{align=8}", out=tmp_path / "out")
    found = optc.load(compiled.path)(*(tensor.numpy() for tensor in inputs))
    before, named = raised("mixer")
    step = PruneChannels(align=8)
    row = pruned(before, named, step)
    with torch.no_grad():
        (expected,) = run(row.after, named).outputs.values()
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3)
