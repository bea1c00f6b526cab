"""optc: zero trials, the default pipeline."""

from __future__ import annotations

import importlib.metadata

import numpy as np
from torch.utils._pytree import tree_leaves

from benchmarks.models import MODELS
from benchmarks.peers.contender import Arrays, Job, Run
from optc.runtime import Artifact, load


def prepare(job: Job) -> None:
    """Capture and compile."""
    import optc
    from optc.cli.options import cache_folder
    from optc.driver import Options, compile_module
    from optc.ir.targets.find import find_target

    model, inputs = MODELS[job.model].make()
    target = find_target(f"{job.target}:cores={job.threads}")
    module = optc.capture(model, inputs)
    compile_module(module, target, job.folder / "optc", Options(cache=cache_folder()))


def artifact(job: Job) -> Artifact:
    """What `prepare` left."""
    return load(job.folder / "optc", threads=job.threads)


def open(job: Job) -> Run:
    """Called from Python, as its users do."""
    loaded = artifact(job)
    arrays = [tensor.numpy() for tensor in MODELS[job.model].make()[1]]

    def run() -> Arrays:
        found = loaded(*arrays)
        return [found] if isinstance(found, np.ndarray) else tree_leaves(found)

    return run


def version() -> str:
    """optc's."""
    return importlib.metadata.version("optc")
