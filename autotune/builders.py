"""Kernels of candidates, built elsewhere: the agreement, and this machine's processes."""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Protocol

from optc.autotune.builders_pool import WorkerPool
from optc.backends.kernel import Job, Kernel
from optc.backends.tvm.templates.plan import Knobs
from optc.ir.targets.target import Target

TIMEOUT = 120.0  # seconds for one kernel; the first of a process pays for loading the compiler


class Builders(Protocol):
    """What builds kernels, several at a time."""

    def submit(self, job: Job, target: Target, knobs: Knobs) -> Future[Kernel]:
        """The kernel of a job with these knobs; the future fails with any exception but ends."""
        ...

    def close(self) -> None:
        """Let go of processes and connections."""
        ...


def build_kernel(job: Job, target: Target, knobs: Knobs) -> Kernel:
    """One kernel, in this process."""
    from optc.backends.tvm.kernel import build  # where it is called, not where it is named

    return build(job, target, lambda job, plan: knobs)


class LocalBuilders:
    """Processes of this machine: as many as it has cores, unless told otherwise.

    A process that dies is replaced and its kernel tried once more; one that takes longer than
    `timeout` seconds is replaced and its kernel given up.
    """

    def __init__(self, workers: int | None = None, timeout: float = TIMEOUT) -> None:
        self.pool = WorkerPool(workers or len(os.sched_getaffinity(0)), timeout)

    def submit(self, job: Job, target: Target, knobs: Knobs) -> Future[Kernel]:
        """Build in the next process that is free; fails with WorkFailed."""
        return self.pool.submit(build_kernel, job, target, knobs)

    def close(self) -> None:
        """End the processes."""
        self.pool.close()
