"""Measuring through TVM's tracker: a tracker and a stock server in processes of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from optc.autotune.device import open_measurer, parse_tracker
from optc.autotune.local import LocalMeasurer
from optc.autotune.remote import RemoteMeasurer, Tracker, TrackerRunner
from optc.ir.diagnostics import OptcError
from optc.ir.targets.detect import host
from optc.ir.targets.find import find_target
from tests.autotune import trials
from tests.autotune.test_trials import ran
from tests.autotune.trials import QUICK, FakeBuilders, gemm, task_of

KEY = "bench"
needs_tracker = pytest.mark.needs("package:tornado")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of TVM's; ended with all processes it started."""
    command = (sys.executable, "-m", *arguments)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def tracker_at(port: int) -> contextlib.AbstractContextManager[object]:
    ports = ("--port", str(port), "--port-end", str(port + 1))
    return started("tvm.exec.rpc_tracker", "--host", "127.0.0.1", *ports)


def server_for(port: int) -> contextlib.AbstractContextManager[object]:
    own = free_port()
    ports = ("--port", str(own), "--port-end", str(own + 1))
    where = ("--tracker", f"127.0.0.1:{port}", "--key", KEY)
    return started("tvm.exec.rpc_server", "--host", "127.0.0.1", *ports, *where)


def wait_for(port: int) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            continue
        return


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    port = free_port()
    with tracker_at(port):
        wait_for(port)
        with server_for(port):
            yield Tracker("127.0.0.1", port, KEY)


@needs_tracker
def test_candidates_run_on_a_device(tracker: Tracker) -> None:
    task = task_of(gemm(), target := host())
    pace = replace(QUICK, patience=1.0)
    measurer = RemoteMeasurer(target, tracker, builders=FakeBuilders(), pace=pace)
    knobs = [task.candidates[0], trials.SEGFAULT, trials.WRONG, task.candidates[1]]
    found = measurer.measure(task, [*knobs, trials.ENDLESS])
    measurer.close()
    assert measurer.machine == str(tracker)
    assert ran(found) == [True, False, False, True, False]
    assert found[1].error == "killed by signal 11"
    assert found[4].error == "no answer in 1 s"


@needs_tracker
def test_a_device_that_emulates_another(tracker: Tracker) -> None:
    if not shutil.which("qemu-aarch64-static"):
        pytest.skip("needs qemu-aarch64-static (Debian: qemu-user-static)")
    target = replace(find_target("aarch64"), triple="aarch64-linux-musl")
    task = task_of(gemm(), target)
    measurer = RemoteMeasurer(
        target,
        tracker,
        prefix=("qemu-aarch64-static", "-cpu", "max"),
        triple=host().triple,
        builders=FakeBuilders(),
        pace=QUICK,
    )
    found = measurer.measure(task, task.candidates[:2])
    measurer.close()
    assert ran(found) == [True, True]


@needs_tracker
def test_a_lost_connection_is_made_anew(tracker: Tracker) -> None:
    task = task_of(gemm(), target := host())
    measurer = RemoteMeasurer(target, tracker, builders=FakeBuilders(), pace=QUICK)
    runner = measurer._runner
    assert isinstance(runner, TrackerRunner)
    runner._session._sock.shutdown(socket.SHUT_RDWR)  # as a network that drops it
    found = measurer.measure(task, task.candidates[:1])
    measurer.close()
    assert ran(found) == [True]


@needs_tracker
def test_a_key_that_nobody_has(tracker: Tracker) -> None:
    with pytest.raises(OptcError, match="knows no device called 'phone'"):
        TrackerRunner(replace(tracker, key="phone"), host().triple, patience=0.5)


def test_a_tracker_that_is_not_there() -> None:
    with pytest.raises(OptcError, match=r"no tracker answers at 127.0.0.1:1"):
        open_measurer(host(), "tracker:127.0.0.1:1/phone", "1")


def test_words_for_devices() -> None:
    assert parse_tracker("board.lan:9190/pi 4") == Tracker("board.lan", 9190, "pi 4")
    assert str(parse_tracker("::1:9190/k")) == "tracker:::1:9190/k"
    measurer = open_measurer(host(), "run:nice -n 1", "1", QUICK)
    measurer.close()
    assert isinstance(measurer, LocalMeasurer)
    assert measurer.machine.startswith("nice on ")


@pytest.mark.parametrize("text", ["usb", "tracker:", "tracker:host/k", "tracker:h:p/k", "run:"])
def test_devices_that_are_misspelt(text: str) -> None:
    with pytest.raises(OptcError, match="E0737"):
        open_measurer(host(), text)
