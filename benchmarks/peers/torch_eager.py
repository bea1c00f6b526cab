"""PyTorch as it is: eager, in inference mode. All others are checked against its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from benchmarks.models import MODELS
from benchmarks.peers.contender import Job, Run


def prepare(job: Job) -> None:
    """Nothing: it runs what it is given."""


def open(job: Job) -> Run:
    """The module itself."""
    model, inputs = MODELS[job.model].make()
    torch.set_num_threads(job.threads)

    def run() -> Sequence[NDArray[Any]]:
        with torch.inference_mode():
            return arrays(model(*inputs))

    return run


def arrays(tree: Any) -> Sequence[NDArray[Any]]:
    """The tensors of an output as arrays, in torch's order."""
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]


def version() -> str:
    """torch's."""
    return str(torch.__version__)
