"""Processes that stay alive and call functions, one call each at a time.

Why not `concurrent.futures`: a worker that dies there breaks the pool, and one that hangs cannot
be ended. Here each thread of the pool owns one process and replaces it. Processes are started
as programs of their own, so that a script that tunes needs no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
ATTEMPTS = 2  # a worker may be killed for what another program does; twice is no accident


class WorkFailed(Exception):
    """A call raised, hung, or took its process down with it; says which."""


class WorkerPool:
    """`workers` processes, each started by its first call; a call has `timeout` seconds."""

    def __init__(self, workers: int, timeout: float) -> None:
        self.timeout = timeout
        self._calls: SimpleQueue[tuple[Future[Any], bytes] | None] = SimpleQueue()
        self._closing = threading.Event()
        self._workers = [_Worker() for _ in range(workers)]
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), daemon=True)
            for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers that run."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    def submit(self, function: Callable[..., T], *arguments: object) -> Future[T]:
        """Call `function`, which is found by its name in the worker; fails with WorkFailed."""
        future: Future[T] = Future()
        self._calls.put((future, pickle.dumps((function, arguments))))
        return future

    def close(self) -> None:
        """End all processes; calls that wait are cancelled, those that run fail."""
        self._closing.set()
        for worker in self._workers:
            worker.stop()
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self, worker: _Worker) -> None:
        while (call := self._calls.get()) is not None:
            future, request = call
            if self._closing.is_set():
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._call(worker, request))
            except Exception as problem:
                future.set_exception(problem)
        worker.stop()

    def _call(self, worker: _Worker, request: bytes) -> Any:
        for _ in range(ATTEMPTS):
            try:
                good, value = worker.call(request, self.timeout)
            except (EOFError, OSError):
                code = worker.stop()
                if self._closing.is_set():
                    break
                continue
            if good:
                return value
            raise WorkFailed(value)
        else:
            how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
            raise WorkFailed(f"the compiler's process died: {how}")
        raise WorkFailed("the pool was closed")


class _Worker:
    """One process and the pipe to it; started when it is needed."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._lock = threading.Lock()

    def call(self, request: bytes, timeout: float) -> tuple[bool, Any]:
        """The answer: whether the call went well, and its result or what it raised as text.

        Raises EOFError or OSError when the process dies.
        """
        pipe = self._pipe or self._start()
        pipe.send_bytes(request)
        if not pipe.poll(timeout):
            self.stop()
            return False, f"no answer in {timeout:g} s"
        answer: tuple[bool, Any] = pickle.loads(pipe.recv_bytes())
        return answer

    def stop(self) -> int:
        """Kill the process; returns its status, negative for the signal that ended it."""
        with self._lock:
            process, self.process, self._pipe = self.process, None, None
        if process is None:
            return 0
        try:  # one that is dying says how
            return process.wait(0.5) if process.poll() is None else process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _start(self) -> Connection:
        here, there = Pipe()
        path = os.pathsep.join(entry for entry in sys.path if entry)
        with self._lock:
            self.process = subprocess.Popen(
                (sys.executable, "-m", "optc.autotune.builders_worker", str(there.fileno())),
                pass_fds=(there.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the tuner, which ends its workers itself
            )
            self._pipe = here
        there.close()
        return here
