"""Measures on other machines, through TVM's RPC tracker and its stock servers.

The device needs no optc and no compiler. The measuring program goes there as files, together with
a small library whose one function the server calls; that starts the program as a process of its
own and watches it, so a candidate that crashes does not take the server with it.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm import rpc

from optc.autotune.builders import Builders, LocalBuilders
from optc.autotune.measurer_trials import Pace, TrialMeasurer
from optc.autotune.trial_answer import Exit
from optc.autotune.trial_image import FILES, PROGRAM
from optc.backends.aot.link import find_toolchain
from optc.ir.diagnostics import error
from optc.ir.targets.target import Target

SOURCE = Path(__file__).with_name("launch.c")
LIBRARY, FUNCTION = "launch.so", "optc_launch"
HANGS, NOT_STARTED = 1000, 1001  # as in launch.c
ATTEMPTS = 3  # of a run whose connection broke


@dataclass(frozen=True, slots=True)
class Tracker:
    """Devices called `key` at TVM's tracker; any of them that is free is used."""

    host: str
    port: int
    key: str

    def __str__(self) -> str:
        return f"tracker:{self.host}:{self.port}/{self.key}"


class TrackerRunner:
    """Runs each trial in a session of its own, on the next device that is free.

    `triple` is the server's, for the library it loads. A session that breaks is tried again with
    another, ATTEMPTS times in all; then, and when no device is known, E0736 is raised.
    """

    def __init__(
        self, tracker: Tracker, triple: str, prefix: Sequence[str] = (), patience: float = 30.0
    ) -> None:
        self.tracker = tracker
        self.prefix = tuple(prefix)
        self._library = _launcher(triple)
        self._patience = patience
        self._session: Any = None
        self._connect()

    def run(self, folder: Path, arguments: Sequence[str], patience: float) -> Exit:
        """Run to its end, or until its answer has not grown for `patience` seconds."""
        command = (*self.prefix, f"./{PROGRAM}", ".", *arguments)
        # The device watches the program; this limit is for a device that stops doing so.
        limit = patience * (4 + len(arguments)) + 30
        for attempt in range(1, ATTEMPTS + 1):
            start = time.monotonic()
            try:
                if self._session is None:
                    self._connect()
                return self._run_once(folder, command, patience, limit)
            except (OSError, RuntimeError) as problem:  # all that TVM's client raises
                self.close()
                if time.monotonic() - start >= limit * 0.95:
                    return Exit(None, b"", patience=limit)
                if attempt == ATTEMPTS:
                    raise error("E0736", f"{self.tracker} is lost: {problem}") from problem
        raise AssertionError("every attempt returns or raises")

    def close(self) -> None:
        """Leave the tracker."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _connect(self) -> None:
        where = self.tracker
        try:  # TVM's own attempts take a minute
            socket.create_connection((where.host, where.port), self._patience).close()
        except OSError as problem:
            raise error("E0736", f"no tracker answers at {where.host}:{where.port}") from problem
        self._session = rpc.connect_tracker(where.host, where.port)
        end = time.monotonic() + self._patience
        while not self._device_is_known():
            if time.monotonic() > end:
                self.close()
                raise error("E0736", f"the tracker knows no device called {where.key!r}")
            time.sleep(0.2)

    def _device_is_known(self) -> bool:
        servers = self._session.summary()["server_info"]
        return any(server["key"] == f"server:{self.tracker.key}" for server in servers)

    def _run_once(
        self, folder: Path, command: Sequence[str], patience: float, limit: float
    ) -> Exit:
        remote = self._session.request(self.tracker.key, session_timeout=limit, max_retry=1)
        for name in FILES:
            remote.upload(str(folder / name), name)
        remote.upload(bytearray("\n".join(command).encode()), "command")
        remote.upload(bytearray(self._library), LIBRARY)
        code = int(remote.load_module(LIBRARY)[FUNCTION](int(patience * 1e3)))
        if code == NOT_STARTED:
            return Exit(127, b"", "the device cannot start the program")
        answer = bytes(remote.download("answer"))
        complaint = bytes(remote.download("complaint")).decode(errors="replace").strip()
        return Exit(None if code == HANGS else code, answer, complaint[-500:], patience)


class RemoteMeasurer(TrialMeasurer):
    """Devices of a tracker; kernels are built here, or by `builders`.

    `prefix` and `triple` are for servers of another architecture that emulate the target's.
    """

    def __init__(
        self,
        target: Target,
        tracker: Tracker,
        workers: int | None = None,
        *,
        prefix: Sequence[str] = (),
        triple: str = "",
        builders: Builders | None = None,
        pace: Pace | None = None,
        cache: Path | None = None,
    ) -> None:
        # A server is a Python process; musl's static programs run beside one of glibc as well.
        triple = triple or target.triple.replace("-musl", "-gnu")
        runner = TrackerRunner(tracker, triple, prefix)
        builders = builders or LocalBuilders(workers)
        super().__init__(target, str(tracker), builders, runner, pace or Pace(), cache)


def _launcher(triple: str) -> bytes:
    toolchain = find_toolchain(triple)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "launch.c").write_bytes(SOURCE.read_bytes())
        objects = toolchain.compile(("launch.c",), folder)
        toolchain.share(objects, (f"__tvm_ffi_{FUNCTION}",), LIBRARY, folder)
        return (folder / LIBRARY).read_bytes()
