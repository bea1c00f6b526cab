"""Runs CUDA artifacts without a GPU: a libcuda.so.1 for tests, on top of the emulated kernels.

    from tests.backends.cuda_driver import run_artifact

    outputs = run_artifact(folder, program.device.source, [x])      # in a process of its own

The artifact finds the stand-in as it would find the driver, through LD_LIBRARY_PATH; what it may
pretend to be is in `emulated_cuda/driver.c`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.backends.cuda_emulator import CACHE, HERE, ZIG, library

ROOT = Path(__file__).parents[2]
_RUN = """
import sys
import numpy as np
from optc.inputs import call
from optc.runtime import load
folder, places, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])
with np.load(places + "/inputs.npz") as file:
    inputs = [file[name] for name in file.files]
with load(folder) as artifact:
    named = dict(zip((port.name for port in artifact.inputs), inputs, strict=True))
    for _ in range(calls):
        outputs = list(call(artifact, named).values())
    states = {f"state_{s.name}": artifact.state(s.name) for s in artifact.states}
np.savez(places + "/outputs.npz", **{f"{i:04}": a for i, a in enumerate(outputs)}, **states)
"""


@dataclass(frozen=True)
class Emulation:
    """What the stand-in pretends: a compute capability or "none", bytes of device memory, graphs.

    With `graphs` None the driver is one from before CUDA 11.4; False makes none of what it records.
    """

    gpu: str = "8.0"
    memory: int | None = None
    log: Path | None = None
    graphs: bool | None = True

    def environment(self, source: str) -> dict[str, str]:
        """Variables under which an artifact of `source` finds the stand-in and the kernels."""
        architecture = "80" if self.gpu == "none" else self.gpu.replace(".", "")
        found = {
            "LD_LIBRARY_PATH": str(build_driver(graphs=self.graphs is not None)),
            "OPTC_EMULATED_KERNELS": str(library(source, f"sm_{architecture}")),
            "OPTC_EMULATED_GPU": self.gpu,
        }
        if self.memory is not None:
            found["OPTC_EMULATED_MEMORY"] = str(self.memory)
        if self.graphs is False:
            found["OPTC_EMULATED_GRAPHS_FAIL"] = "1"
        if self.log:
            found["OPTC_EMULATED_LOG"] = str(self.log)
        return {**os.environ, **found}


class RunFailed(Exception):
    """The process that ran an artifact failed; its text is what it wrote to stderr."""


def build_driver(*, graphs: bool = True) -> Path:
    """The folder of the stand-in, compiled once."""
    sources = [HERE / name for name in ("driver.c", "streams.h", "graphs.h")]
    include = find_header()
    command = (*ZIG, "-target", "x86_64-linux-gnu.2.17", "-std=c11", "-O1", "-g0", "-fPIC")
    command += ("-shared", "-fno-sanitize=all", "-fvisibility=hidden", f"-I{include}")
    command += ("-Wall", "-Werror", "-Wl,-soname,libcuda.so.1")
    command += () if graphs else ("-DWITHOUT_GRAPHS",)
    text = repr(command).encode() + b"".join(source.read_bytes() for source in sources)
    key = hashlib.sha256(text).hexdigest()[:32]
    folder = CACHE / f"driver-{key}"
    if not folder.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            made = Path(name) / "made"
            made.mkdir()
            inputs = (str(sources[0]), "-lpthread", "-ldl", "-o", str(made / "libcuda.so.1"))
            subprocess.run((*command, *inputs), check=True)
            try:
                made.rename(folder)
            except OSError:  # another process was faster
                if not folder.exists():
                    raise
    return folder


def find_header() -> Path:
    """The folder of NVIDIA's cuda.h, from the wheel or an installed toolkit."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or () if spec else ())]
    folders = [folder for root in roots for folder in sorted(root.glob("*/include"))]
    for folder in (*folders, Path("/usr/local/cuda/include")):
        if (folder / "cuda.h").exists():
            return folder
    raise FileNotFoundError("cuda.h: pip install 'optc[cuda]'")


def run_artifact(
    path: Path,
    source: str,
    inputs: Sequence[NDArray[Any]],
    *,
    calls: int = 1,
    emulation: Emulation | None = None,
) -> list[NDArray[Any]]:
    """Loads and calls an artifact `calls` times; the last outputs, then the states.

    The output tree must be one array or a flat tuple. Raises RunFailed.
    """
    environment = (emulation or Emulation()).environment(source)
    return run_in(environment, path, inputs, calls)


def run_in(
    environment: dict[str, str], path: Path, inputs: Sequence[NDArray[Any]], calls: int = 1
) -> list[NDArray[Any]]:
    """The same in a given environment, on a real GPU for one."""
    with tempfile.TemporaryDirectory() as places:
        np.savez(f"{places}/inputs.npz", **{f"{i:04}": a for i, a in enumerate(inputs)})
        command = (sys.executable, "-c", _RUN, str(path), places, str(calls))
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RunFailed(done.stderr)
        with np.load(f"{places}/outputs.npz") as file:
            return [file[name] for name in file.files]
