"""Trained models out of ONNX and GGUF files: taken in whole, and held to what runs them else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import optc
from benchmarks.model_table import flat, largest_error
from benchmarks.models import MODELS
from optc.backends.reference.evaluate import run

ONNX = ("magika", "ocr-direction", "ocr-places", "ocr-lines", "minilm-l3")
LIMIT = 1e-4  # of the output's range


def made(name: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    try:
        return MODELS[name].make()
    except ModuleNotFoundError as problem:
        pytest.skip(f"{problem}: make venv installs what models.txt names")


@pytest.mark.parametrize("name", [*ONNX, "smollm2"])
def test_a_carried_model_agrees_with_pytorch(name: str, tmp_path: Path) -> None:
    model, inputs = made(name)
    module = optc.capture(model, inputs)
    with torch.no_grad():
        wanted = flat(model(*inputs))
    ports = (port.name for port in module.inputs)
    judged = run(module, dict(zip(ports, inputs, strict=True))).outputs.values()
    assert largest_error([tensor.numpy() for tensor in judged], wanted) <= LIMIT
    artifact = optc.load(optc.compile(module, out=tmp_path / "out").path)
    found = pytree.tree_leaves(artifact(*(tensor.numpy() for tensor in inputs)))
    assert [array.shape for array in found] == [tuple(tensor.shape) for tensor in wanted]
    assert largest_error([np.asarray(array) for array in found], wanted) <= LIMIT


@pytest.mark.needs("package:onnxruntime")
@pytest.mark.parametrize("name", ONNX)
def test_the_file_is_read_right(name: str) -> None:
    import onnxruntime

    model, inputs = made(name)
    session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    arrays = (tensor.numpy() for tensor in inputs)
    wanted = session.run(None, dict(zip(model.inputs, arrays, strict=True)))
    with torch.no_grad():
        found = flat(model(*inputs))
    expected = [torch.from_numpy(np.asarray(array)) for array in wanted]
    assert largest_error([tensor.numpy() for tensor in found], expected) <= LIMIT


def test_gelu_and_attention_are_recognised_in_a_file_of_single_operators() -> None:
    from optc.contexts import pass_context
    from optc.ir.ops import Attention, ew
    from optc.ir.targets.find import find_target
    from optc.passes.base import run_passes
    from optc.passes.standard import CANONICALIZE, RAISE

    model, inputs = made("minilm-l3")
    context = pass_context(find_target("x86-64-v3"))
    module = run_passes(optc.capture(model, inputs), (*CANONICALIZE, *RAISE), context, ())
    ops = [type(node.op) for graph in module.graphs for node in graph.nodes]
    assert (ops.count(ew.Gelu), ops.count(ew.Erf), ops.count(Attention)) == (3, 0, 3)
