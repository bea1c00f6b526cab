"""OpenVINO on the CPU, for latency, held to f32 (it would take bf16 where the CPU has it)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import openvino
from numpy.typing import NDArray

from benchmarks.models import MODELS
from benchmarks.peers.contender import Job, Run


def prepare(job: Job) -> None:
    """Convert the exported program to OpenVINO's graph."""
    import torch

    model, inputs = MODELS[job.model].make()
    converted = openvino.convert_model(torch.export.export(model, inputs))
    openvino.save_model(converted, job.folder / "openvino" / "model.xml", compress_to_fp16=False)


def open(job: Job) -> Run:
    """An inference request, called as one does for one image at a time."""
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": job.threads,
    }
    core = openvino.Core()
    path = job.folder / "openvino" / "model.xml"
    compiled = core.compile_model(core.read_model(path), "CPU", options)
    request = compiled.create_infer_request()
    arrays = [tensor.numpy() for tensor in MODELS[job.model].make()[1]]

    def run() -> Sequence[NDArray[Any]]:
        found = request.infer(arrays, share_inputs=True, share_outputs=True)
        return [found[port] for port in compiled.outputs]

    return run


def version() -> str:
    """openvino's."""
    return str(openvino.__version__.split("-")[0])
