"""An artifact for AArch64 under qemu on some samples, beside what the reference makes of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.variants import Array, Subject, Variant, held_out, prepare
from optc.backends.aot.build import Emit
from optc.backends.aot.link import find_toolchain
from optc.backends.reference.evaluate import run
from optc.driver import Compiled
from optc.ir.targets.find import find_target
from optc.quality.evidence import Evidence

RUNNER = Path(__file__).parents[1] / "tests" / "models" / "run_anywhere.c"
KEPT = "agreement.json"
EMULATOR = ("qemu-aarch64-static", "-cpu", "max")


@dataclass(frozen=True)
class Agreement:
    """How many samples got the same class, and the largest difference of a score, as a share of the
    sample's largest.
    """

    samples: int
    classes: int
    largest: float

    def __str__(self) -> str:
        return f"{self.classes} of {self.samples} classes, scores to {self.largest:.1e}"


def emulate(
    subject: Subject,
    evidence: Evidence,
    variant: Variant,
    folder: Path,
    machine: str,
    samples: int,
) -> None:
    """Compile a variant for a machine and run it under qemu; both are kept."""
    # Static programs need no C library of the machine: zig brings musl's.
    target = replace(find_target(machine), triple="aarch64-linux-musl")
    made = prepare(subject, evidence, variant, folder, target, (Emit.ARCHIVE,))
    found = compared(subject, made, folder / variant.key, samples)
    (folder / variant.key / KEPT).write_text(json.dumps(asdict(found)) + "\n")


def agreement(variant: Variant, folder: Path) -> Agreement:
    """What `emulate` kept."""
    return Agreement(**json.loads((folder / variant.key / KEPT).read_text()))


def compared(subject: Subject, made: Compiled, folder: Path, samples: int) -> Agreement:
    """The first held-out samples on the emulated machine, and by the reference."""
    program = _linked(made, folder / "main")
    same, worst = 0, 0.0
    chosen = list(islice(held_out(subject), samples))
    output = subject.output or made.module.outputs[0].name
    for batch in chosen:
        tensors = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
        with torch.no_grad():
            expected = run(made.module, tensors).outputs[output].numpy()
        found = _answer(program, made, list(batch.inputs.values()), output)
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
        same += int(found.argmax() == expected.argmax())
    return Agreement(len(chosen), same, worst)


def _linked(made: Compiled, program: Path) -> Path:
    """A static program around the archive."""
    toolchain = find_toolchain(str(made.manifest["target"]["triple"]), None)
    prefix = f"-DPREFIX={made.manifest['prefix']}"
    command = (*toolchain.compiler, "-static", "-O1", prefix, f"-I{made.path}", str(RUNNER))
    command += (f"{made.path}/model.a", "-lpthread", "-lm", "-o", str(program))
    subprocess.run(command, env={**os.environ, **toolchain.environment}, check=True)
    return program


def _answer(program: Path, made: Compiled, inputs: Sequence[Array], output: str) -> Array:
    """One call in a process of its own."""
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in inputs)
    command = (*EMULATOR, str(program), str(made.path))
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    start = 0
    for port in made.manifest["outputs"]:
        if port["name"] == output:
            return np.frombuffer(done.stdout, np.float32, int(np.prod(port["shape"])), start)
        start += port["bytes"]
    raise KeyError(output)
