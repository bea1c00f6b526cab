"""The table of peers from made-up times, and its processes with a contender that does nothing."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.command import _entry, _error
from benchmarks.peers.contender import ALL, CONTENDERS, Job, environment
from benchmarks.peers.results import Entry, Row, geometric_mean, kernel_times, merge, read
from benchmarks.peers.rounds import Runner, rotations, time_all
from benchmarks.peers.table import losses, markdown
from optc.roofline import Level, Limits

OURS = Entry.of("optc", "1", [[2e-3, 2e-3, 9e-3], [2e-3, 2e-3, 2e-3]], 1e-7)
SLOW = Entry.of("PyTorch", "2", [[8e-3, 8e-3], [8e-3, 8e-3]], 0.0)
FAST = Entry.of("OpenVINO", "3", [[3e-3, 3e-3], [3e-3, 3e-3, 5e-3]], 1e-7)
BROKEN = Entry("IREE", problem="RuntimeError: no")
KERNELS = (
    {"label": "linear 1x4xf32 @ a.py:1", "kernel": "k", "seconds": 1e-3, "limit": 0.5e-3,
     "bound": "compute", "speed": ""},
    {"label": "linear 1x4xf32 @ a.py:2", "kernel": "k", "seconds": 0.5e-3, "limit": 0.4e-3,
     "bound": "compute", "speed": ""},
    {"label": "softmax 1x4xf32", "kernel": "s", "seconds": 0.2e-3, "limit": 0.19e-3,
     "bound": "cache", "speed": ""},
)  # fmt: skip
ROW = Row("net", "host", 2, "a CPU", "2026-01-02", (OURS, SLOW, FAST, BROKEN), 1.1e-3, KERNELS)


def test_an_entry_is_the_middle_of_the_rounds() -> None:
    assert OURS.median == pytest.approx(2e-3)
    assert OURS.p90 == pytest.approx(5.5e-3)
    assert OURS.calls == 6
    even = Entry.of("x", "", [[1.0], [3.0], [3.0]], 0.0)
    assert even.median == 3.0


def test_the_ratio_is_to_the_fastest_peer_that_was_right() -> None:
    assert ROW.ratio == pytest.approx(1.5)
    wrong = replace(FAST, problem="its outputs differ by 1.0e+00 of their range")
    assert replace(ROW, entries=(OURS, SLOW, wrong)).ratio == pytest.approx(4.0)
    assert math.isnan(replace(ROW, entries=(SLOW, FAST)).ratio)
    assert math.isnan(replace(ROW, entries=(OURS,)).ratio)


def test_rows_measured_later_replace_those_of_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    merge(path, [ROW, replace(ROW, target="x86-64-v3")])
    again = replace(ROW, entries=(SLOW, replace(OURS, median=1e-3)))
    rows = merge(path, [again])
    assert rows == read(path)
    assert rows["net host 2"] == again
    assert rows["net x86-64-v3 2"].ratio == pytest.approx(1.5)


def test_the_table_says_who_was_fastest_who_failed_and_where_time_goes() -> None:
    text = markdown([ROW], ["net"])
    (line,) = (line for line in text.splitlines() if line.startswith("| net | 2.00"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == "8.00 / 8.00 / 8.00"
    assert cells[3].startswith("3.00 / **3.00** / ")
    assert cells[4:] == ["failed", "1.50", "1.50", "55%"]
    assert "- IREE, net, host: RuntimeError: no" in text
    assert "| net | linear 1x4xf32 | 2 | 1.500 | 60% | compute | 0.600 |" in text
    assert "softmax" not in text  # at 95 % of its limit
    assert "Geometric mean of 1 ratios: 1.50" in text


def test_equal_kernels_lose_together() -> None:
    (first, second) = losses(KERNELS)
    assert first[1][:2] == ("linear 1x4xf32", 2)
    assert first[0] == pytest.approx(0.6e-3)
    assert second[1][0] == "softmax 1x4xf32"


def test_a_geometric_mean_leaves_out_what_is_unknown() -> None:
    assert geometric_mean([2.0, 0.5, math.nan]) == pytest.approx(1.0)
    assert math.isnan(geometric_mean([]))


def test_everyone_comes_first_and_last() -> None:
    orders = list(rotations(3, 6))
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert {order[0] for order in orders} == {order[-1] for order in orders} == {0, 1, 2}


def test_outputs_are_compared_by_their_range(tmp_path: Path) -> None:
    expected, found = tmp_path / "PyTorch.npz", tmp_path / "other.npz"
    np.savez(expected, np.array([0.0, 10.0]))
    np.savez(found, np.array([0.0, 10.1]))
    assert _error(found, expected) == pytest.approx(0.01)
    np.savez(found, np.zeros(3))
    assert math.isinf(_error(found, expected))
    np.savez(found, np.array([0.0, 10.0]), np.zeros(1))
    assert math.isinf(_error(found, expected))


def test_a_contender_that_is_wrong_has_no_time(tmp_path: Path) -> None:
    np.savez(tmp_path / "PyTorch.npz", np.array([0.0, 1.0]))
    np.savez(tmp_path / "OpenVINO.npz", np.array([0.0, 1.5]))
    runner = Runner("OpenVINO", None, "3", rounds=[[1.0]])  # type: ignore[arg-type]
    assert not _entry(runner, tmp_path).timed
    assert "differ" in _entry(runner, tmp_path).problem


def test_kernels_are_held_to_the_limit_of_their_dtype() -> None:
    limits = Limits(1, 1e9, (Level("dram", 1 << 30, 1e12),), {"i8": 4e9})
    call = {"label": "k", "kernel": "k", "seconds": 1e-3, "flops": 2_000_000, "dtype": "i8",
            "bytes": 8, "written": 4, "weights": 0}  # fmt: skip
    (row,) = kernel_times([call], limits, 0)
    assert row.of_limit == pytest.approx(0.5)


def test_levels_are_held_by_the_switches_that_libraries_read(tmp_path: Path) -> None:
    job = Job("net", "x86-64-v3", 3, tmp_path / "net" / "x86-64-v3")
    found = environment(job)
    assert found["ATEN_CPU_CAPABILITY"] == "avx2"
    assert found["OMP_NUM_THREADS"] == "3"
    assert "ATEN_CPU_CAPABILITY" not in environment(replace(job, target="host"))
    assert {name for name, c in CONTENDERS.items() if c.levels == ALL} == {
        "optc", "PyTorch", "torch.compile",
    }  # fmt: skip


STANDS_IN = """
import json, sys
print(json.dumps({"ready": True, "version": "7"}), flush=True)
for line in sys.stdin:
    print(json.dumps({"times": [json.loads(line)["seconds"]] * 3}), flush=True)
"""


def stand_in(name: str, code: str = STANDS_IN) -> Runner:
    process = subprocess.Popen(
        (sys.executable, "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return Runner(name, process)


def state(runner: Runner) -> str:
    stat = Path(f"/proc/{runner.process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0]


def test_contenders_sleep_while_another_is_timed() -> None:
    with stand_in("a") as a, stand_in("b") as b:
        for runner in (a, b):
            runner.wait()
            os.waitid(os.P_PID, runner.process.pid, os.WSTOPPED)
        assert (a.version, b.version) == ("7", "7")
        time_all([a, b], rounds=4, seconds=0.5, drop=0)
        assert a.rounds == b.rounds == [[0.5] * 3] * 4
        for runner in (a, b):
            os.waitid(os.P_PID, runner.process.pid, os.WSTOPPED)
            assert state(runner) == "T"


def test_a_contender_that_dies_is_a_row_that_says_so() -> None:
    with stand_in("a", "import os; os._exit(3)") as dead, stand_in("b") as alive:
        for runner in (dead, alive):
            runner.wait()
        assert dead.problem == "ended with 3"
        time_all([dead, alive], rounds=2, seconds=0.1, drop=0)
        assert (dead.rounds, len(alive.rounds)) == ([], 2)
        os.kill(alive.process.pid, signal.SIGKILL)
        alive.ask({"do": "time", "seconds": 1})
        assert alive.problem == f"ended with {-signal.SIGKILL}"


def test_results_are_plain_json(tmp_path: Path) -> None:
    merge(tmp_path / "peers.json", [ROW])
    (item,) = json.loads((tmp_path / "peers.json").read_text())
    assert item["entries"][0]["contender"] == "optc"
