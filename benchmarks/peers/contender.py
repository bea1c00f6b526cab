"""What a contender is: how it prepares a model once, and how it opens what it prepared."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from numpy.typing import NDArray

Arrays = Sequence[NDArray[Any]]
Run = Callable[[], Arrays]


@dataclass(frozen=True, slots=True)
class Job:
    """A model, for threads and an instruction set; what is prepared lies in `folder`."""

    model: str
    target: str
    threads: int
    folder: Path


class Module(Protocol):
    """What a contender's file has."""

    def prepare(self, job: Job) -> None:
        """Convert or compile once; leaves files in `job.folder`."""

    def open(self, job: Job) -> Run:
        """What runs the model once with its example inputs, and gives its outputs."""

    def version(self) -> str:
        """Of the package."""


@dataclass(frozen=True, slots=True)
class Contender:
    """`module` of this folder; `levels` are the targets that it can be held to."""

    name: str
    module: str
    levels: frozenset[str] = frozenset({"host"})

    def load(self) -> Module:
        """Import it; raises ImportError where its package is not installed."""
        found: Module = importlib.import_module(f"benchmarks.peers.{self.module}")
        return found


V3, V2 = "x86-64-v3", "x86-64-v2"
ALL = frozenset({"host", V3, V2})

CONTENDERS: Mapping[str, Contender] = MappingProxyType(
    {
        row.name: row
        for row in (
            Contender("optc", "ours", ALL),
            Contender("PyTorch", "torch_eager", ALL),
            Contender("torch.compile", "torch_compiled", ALL),
            Contender("ONNX Runtime", "onnx_runtime"),  # asks the CPU itself; nothing holds it back
            Contender("OpenVINO", "open_vino"),
            Contender("ExecuTorch", "executorch_xnnpack"),
            Contender("IREE", "iree_cpu"),
        )
    }
)

# PyTorch's own kernels, oneDNN's and MKL's each have a switch. On AMD, MKL multiplies matrices with
# FMA in 256 bits whatever MKL_ENABLE_INSTRUCTIONS and MKL_CBWR=SSE4_2 say (`..._kernel_0_zen`, 198
# GFLOP/s where SSE4 has at most 124); COMPATIBLE alone holds it to SSE (`mulps` of 128 bits).
_HELD: Mapping[str, Mapping[str, str]] = {
    "host": {},
    V3: {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    V2: {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
    },
}


def environment(job: Job) -> dict[str, str]:
    """Of a contender's process."""
    return {
        **os.environ,
        **_HELD[job.target],
        "OMP_NUM_THREADS": str(job.threads),
        "MKL_NUM_THREADS": str(job.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHINDUCTOR_CACHE_DIR": str(job.folder.parent / f"inductor-{job.target}"),
    }
