"""A contender's process: prepares or opens a model, then runs it when it is told to.

    python -m benchmarks.peers.worker CONTENDER MODEL TARGET THREADS FOLDER [--prepare]

Commands and answers are lines of JSON on the standard streams as they were at the start; what
libraries print goes to the error stream.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks.models import MODELS
from benchmarks.peers.contender import CONTENDERS, Job, Module, Run

WARM_UP = 3  # calls before the outputs are kept


def main() -> None:
    """Do as the arguments say; the last line says what went wrong, if anything did."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, model, target, threads, folder, *rest = sys.argv[1:]
    job = Job(model, target, int(threads), Path(folder))
    try:
        module = CONTENDERS[name].load()
        if rest == ["--prepare"]:
            module.prepare(job)
            say(answers, {"done": True})
        else:
            serve(module, job, name, answers)
    except Exception as problem:  # any package may fail in any way: the table says how
        traceback.print_exc()
        lines = str(problem).strip().splitlines() or [""]
        say(answers, {"problem": f"{type(problem).__name__}: {lines[0][:160]}"})


def serve(module: Module, job: Job, name: str, answers: TextIO) -> None:
    """Open, keep the outputs for checking, then answer until the input ends."""
    run = module.open(job)
    for _ in range(WARM_UP):
        outputs = run()
    np.savez(job.folder / f"{name}.npz", *outputs)
    say(answers, {"ready": True, "version": module.version()})
    for line in sys.stdin:
        say(answers, COMMANDS[json.loads(line)["do"]](job, run, json.loads(line)))


def timed(_: Job, run: Run, command: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of each call, for about `seconds`, after the first calls of a wake-up."""
    times: list[float] = []
    end = time.perf_counter() + command["seconds"]
    dropped = 0
    while time.perf_counter() < end or len(times) < command["least"]:
        start = time.perf_counter()
        run()
        elapsed = time.perf_counter() - start
        if dropped < command["drop"]:
            dropped += 1
        else:
            times.append(elapsed)
    return {"times": times}


def kernels(job: Job, _: Run, command: Mapping[str, Any]) -> dict[str, Any]:
    """Of our own artifact: every kernel call's fastest time, and what it computes and moves."""
    from benchmarks.peers.ours import artifact

    model = artifact(job)
    inputs = [tensor.numpy() for tensor in MODELS[job.model].make()[1]]
    profile = model.profile(*inputs, runs=command["runs"])
    rows = [
        {"label": k.label, "kernel": k.kernel, "seconds": k.fastest_ns * 1e-9, "flops": k.flops,
         "dtype": k.dtype, "bytes": k.bytes, "written": k.written, "weights": k.weights}
        for k in profile.kernels
        if k.calls
    ]  # fmt: skip
    return {"kernels": rows, "weights": model.manifest["weights_bytes"]}


COMMANDS: Mapping[str, Callable[[Job, Run, Mapping[str, Any]], dict[str, Any]]] = {
    "time": timed,
    "kernels": kernels,
}


def say(stream: TextIO, answer: Mapping[str, Any]) -> None:
    """One line."""
    print(json.dumps(answer), file=stream, flush=True)


if __name__ == "__main__":
    main()
