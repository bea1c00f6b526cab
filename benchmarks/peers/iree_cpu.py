"""IREE for this CPU, from torch-mlir's linalg, with what its documentation advises for speed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import MODELS
from benchmarks.peers.contender import Job, Run

FLAGS = (
    "--iree-llvmcpu-target-cpu=host",
    "--iree-opt-level=O3",
    "--iree-opt-data-tiling",
    "--iree-llvmcpu-stack-allocation-limit=262144",  # attention of DeiT does not compile with 32 kB
)


def prepare(job: Job) -> None:
    """To MLIR through torch-mlir, then to IREE's module."""
    import iree.compiler
    import torch
    from torch_mlir import fx

    model, inputs = MODELS[job.model].make()
    for part in model.modules():  # torch-mlir finds no buffers that are not in the state
        part._non_persistent_buffers_set.clear()
    program = torch.export.export(model, inputs)
    module = fx.export_and_import(program, output_type="linalg-on-tensors", func_name="forward")
    folder = job.folder / "iree"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.mlir").write_text(str(module))
    iree.compiler.compile_file(
        str(folder / "model.mlir"),
        target_backends=["llvm-cpu"],
        output_file=str(folder / "model.vmfb"),
        extra_args=list(FLAGS),
    )


def open(job: Job) -> Run:
    """The module on the `local-task` driver, which has a worker for each core."""
    import iree.runtime

    iree.runtime.flags.parse_flags(f"--task_topology_group_count={job.threads}")
    config = iree.runtime.Config("local-task")
    path = str(job.folder / "iree" / "model.vmfb")
    module = iree.runtime.VmModule.mmap(config.vm_instance, path)
    loaded = iree.runtime.load_vm_module(module, config)
    arrays = [tensor.numpy() for tensor in MODELS[job.model].make()[1]]

    def run() -> Sequence[NDArray[Any]]:
        found = loaded.forward(*arrays)
        results = found if isinstance(found, tuple | list) else (found,)
        return [np.asarray(item) for item in results]

    return run


def version() -> str:
    """iree-base-runtime's."""
    return importlib.metadata.version("iree-base-runtime")
