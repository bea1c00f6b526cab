"""torch.compile with the inductor, which writes C++; its cache is filled when it is prepared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from benchmarks.models import MODELS
from benchmarks.peers.contender import Job, Run
from benchmarks.peers.torch_eager import arrays, version

__all__ = ["open", "prepare", "version"]


def prepare(job: Job) -> None:
    """Compile once; later processes find the code in the cache."""
    open(job)()


def open(job: Job) -> Run:
    """The compiled module."""
    model, inputs = MODELS[job.model].make()
    torch.set_num_threads(job.threads)
    compiled = torch.compile(model)

    def run() -> Sequence[NDArray[Any]]:
        with torch.inference_mode():
            return arrays(compiled(*inputs))

    return run
