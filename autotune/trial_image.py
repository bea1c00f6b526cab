"""A trial as files that can be carried to the machine it is for: program, weights, inputs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from optc.autotune.trial import Trial
from optc.backends.aot.build import Emit
from optc.backends.aot.link import find_toolchain
from optc.backends.aot.package import write_artifact
from optc.backends.program import bytes_of
from optc.ir.diagnostics import InternalError

SOURCE = Path(__file__).with_name("measure.c")
PROGRAM, WEIGHTS, INPUT = "measure", "weights.bin", "input"
FILES = (PROGRAM, WEIGHTS, INPUT)


def write_image(trial: Trial, folder: Path, cache: Path) -> None:
    """Write the files of a trial into `folder`; raises InternalError where kernels do not link.

    The program is linked like the artifacts of its triple: against glibc for `-gnu`, so that it
    measures the same memcpy and expf, and static for `-musl`, which runs where there is no libc.
    `cache` keeps the compiled runtime. Raises E0501 and E0502 as `find_toolchain`.
    """
    program = trial.program
    toolchain = find_toolchain(program.triple)
    artifact = folder / "artifact"
    written = write_artifact(
        program, artifact, emit=(Emit.ARCHIVE,), cache=cache, toolchain=toolchain
    )
    static = ("-static",) if "musl" in program.triple.rpartition("-")[2] else ()
    defines = (f"-DPREFIX={written.manifest['prefix']}", f"-I{artifact}")
    inputs = (str(SOURCE), str(artifact / "model.a"), "-lpthread", "-lm")
    done = subprocess.run(
        (*toolchain.compiler, *static, "-O1", *defines, *inputs, "-o", PROGRAM),
        cwd=folder,
        env={**os.environ, **toolchain.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise InternalError(f"{toolchain.name} cannot link the trial:\n{done.stderr[-2000:]}")
    (artifact / "weights.bin").rename(folder / WEIGHTS)
    shutil.rmtree(artifact)
    with (folder / INPUT).open("wb") as file:
        for array in trial.inputs:
            file.write(bytes_of(array))
