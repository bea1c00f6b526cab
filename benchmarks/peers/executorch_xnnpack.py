"""ExecuTorch with everything that XNNPACK takes delegated to it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from benchmarks.models import MODELS
from benchmarks.peers.contender import Job, Run
from benchmarks.peers.torch_eager import arrays


def prepare(job: Job) -> None:
    """Export, delegate, save the program."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    model, inputs = MODELS[job.model].make()
    program = torch.export.export(model, inputs)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path = job.folder / "executorch" / "model.pte"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lowered.to_executorch().buffer)


def open(job: Job) -> Run:
    """The program's forward method."""
    from executorch.runtime import Runtime

    _threads(job.threads)
    runtime = Runtime.get()
    program = runtime.load_program(str(job.folder / "executorch" / "model.pte"))
    method = program.load_method("forward")
    inputs = list(MODELS[job.model].make()[1])

    def run(_owner: object = program) -> Sequence[NDArray[Any]]:
        return arrays(method.execute(inputs))

    return run


def _threads(count: int) -> None:
    from executorch.extension.pybindings import portable_lib

    if portable_lib._threadpool_get_thread_count() != count:
        portable_lib._unsafe_reset_threadpool(count)


def version() -> str:
    """executorch's."""
    return importlib.metadata.version("executorch")
