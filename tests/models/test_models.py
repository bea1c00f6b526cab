"""Whole models: captured, compiled for this machine, loaded, and held to PyTorch's outputs."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

import optc
from benchmarks.model_table import flat, largest_error
from benchmarks.models import MODELS

SMALL = [name for name, entry in MODELS.items() if entry.small]
LIMIT = 1e-4  # of the output's range


def compiled(name, folder):
    package = MODELS[name].package
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"package {package} is not installed: make venv")
    model, inputs = MODELS[name].make()
    return model, inputs, optc.compile(optc.capture(model, inputs), out=folder / "out")


@pytest.mark.parametrize("name", [*SMALL, "minilm-l6", "resnet18", "deit-t"])
def test_a_model_agrees_with_pytorch(name, tmp_path):
    model, inputs, result = compiled(name, tmp_path)
    artifact = optc.load(result.path)
    with torch.no_grad():
        expected = flat(model(*inputs))
    found = artifact(*(tensor.numpy() for tensor in inputs))
    leaves = [np.asarray(leaf) for leaf in torch.utils._pytree.tree_leaves(found)]
    assert [leaf.shape for leaf in leaves] == [tuple(tensor.shape) for tensor in expected]
    assert largest_error(leaves, expected) <= LIMIT


def test_state_goes_on_from_call_to_call(tmp_path):
    model, inputs, result = compiled("counter", tmp_path)
    artifact = optc.load(result.path)
    for scale in (1.0, 2.0, -3.0):
        with torch.no_grad():
            expected = model(inputs[0] * scale)
        found = artifact((inputs[0] * scale).numpy())
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)
    artifact.reset()
    fresh = MODELS["counter"].make()[0]
    with torch.no_grad():
        np.testing.assert_allclose(artifact(inputs[0].numpy()), fresh(inputs[0]).numpy(), atol=1e-5)
