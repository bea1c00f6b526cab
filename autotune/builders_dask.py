"""Kernels built by a Dask cluster: several hosts, each with optc installed (extra `workers`).

Dask runs a kernel elsewhere when a worker is lost, so every future ends. Objects and packs travel
by pickle: scheduler and workers must be ours, since whoever speaks to them runs code there.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from optc.autotune.builders import build_kernel
from optc.backends.kernel import Job, Kernel
from optc.backends.tvm.templates.plan import Knobs
from optc.ir.diagnostics import error
from optc.ir.targets.target import Target

ATTEMPTS = 3  # of a kernel whose worker was lost


class DaskBuilders:
    """The workers of the scheduler at `address` (`tcp://host:8786`).

    Raises E0735 when Dask is not installed or nobody answers within `patience` seconds.
    """

    def __init__(self, address: str, patience: float = 10.0) -> None:
        try:
            from distributed import Client
        except ImportError as problem:
            raise error(
                "E0735", "Dask is not installed", help="pip install 'optc[workers]'"
            ) from problem
        try:
            self._client: Any = Client(address, timeout=patience, set_as_default=False)
        except (OSError, TimeoutError) as problem:
            raise error("E0735", f"no Dask scheduler answers at {address}") from problem
        self._executor: Any = self._client.get_executor(pure=False, retries=ATTEMPTS - 1)

    def submit(self, job: Job, target: Target, knobs: Knobs) -> Future[Kernel]:
        """Build on any worker of the cluster."""
        future: Future[Kernel] = self._executor.submit(build_kernel, job, target, knobs)
        return future

    def close(self) -> None:
        """Leave the cluster; its workers stay."""
        self._executor.shutdown(wait=False)
        self._client.close()
