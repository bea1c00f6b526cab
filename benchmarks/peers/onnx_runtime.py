"""ONNX Runtime on its own CPU kernels, all graph optimisations on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from benchmarks.models import MODELS
from benchmarks.peers.contender import Job, Run


def prepare(job: Job) -> None:
    """Export to ONNX with torch's exporter."""
    import torch

    model, inputs = MODELS[job.model].make()
    path = job.folder / "onnx" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(model, inputs, str(path), dynamo=True, external_data=True)


def open(job: Job) -> Run:
    """A session with `threads` threads, which spin, as they do by default."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
    path = str(job.folder / "onnx" / "model.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = MODELS[job.model].make()[1]
    names = [port.name for port in session.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}

    def run() -> Sequence[NDArray[Any]]:
        found: Sequence[NDArray[Any]] = session.run(None, feeds)
        return found

    return run


def version() -> str:
    """onnxruntime's."""
    return str(onnxruntime.__version__)
