"""Schedules that MetaSchedule finds: right, the same every time, and chosen from records alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from optc.autotune.choice import Recorded, recalled
from optc.autotune.metaschedule import widened
from optc.autotune.records import Record, Records
from optc.autotune.task import TuningTask, tasks_of
from optc.autotune.trial import trial_of
from optc.backends.aot.package import write_artifact
from optc.backends.tvm.kernel import build
from optc.backends.tvm.templates.generic import GenericPlan
from optc.backends.tvm.templates.plan import Problem
from optc.ir.targets.detect import host
from optc.ir.text import parse
from optc.runtime import load

HOST = host()
# A norm of channels that lie apart: no template takes it.
NORM = """graph @main(%x: 1x12x10x32xf32) {
  %w = constant {seed=1} : 32xf32
  %y = group_norm(%x, %w, %w) {groups=8, channels_last=true} : 1x12x10x32xf32
  return %y
}
"""
SCAN = """graph @main(%x: 4x64xf32) {
  %y = cum_sum(%x) {axis=1} : 4x64xf32
  return %y
}
"""


def task_of(text: str) -> TuningTask:
    (task,) = tasks_of(parse(text), HOST)
    return task


@pytest.fixture(scope="module")
def norm() -> TuningTask:
    return widened(task_of(NORM), HOST)


def test_hand_written_loops_have_none() -> None:
    task = task_of(SCAN)
    assert widened(task, HOST) is task


def test_equal_seeds_find_equal_schedules(norm: TuningTask) -> None:
    assert len(norm.searched) >= 16
    again = widened(task_of(NORM), HOST)
    assert again.searched == norm.searched
    other = widened(task_of(NORM), HOST, seed=1)
    assert other.searched != norm.searched


def test_schedules_compute_what_the_template_does(norm: TuningTask, tmp_path: Path) -> None:
    knobs = norm.candidates[:: max(1, len(norm.candidates) // 4)]
    kernels = [build(norm.job, HOST, lambda _job, _plan, one=one: one) for one in knobs]
    assert len({kernel.symbol for kernel in kernels}) == len(knobs)
    trial = trial_of(norm.job, kernels, HOST)
    run = load(write_artifact(trial.program, tmp_path / "trial").path)
    expected, *others = (run(np.array(i, np.int32), *trial.inputs) for i in range(len(knobs)))
    for found in others:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_record_is_all_that_a_compilation_needs(norm: TuningTask, tmp_path: Path) -> None:
    guess, best = norm.candidates[0], norm.searched[3]
    records = Records.open(tmp_path / "r.jsonl")
    for knobs, seconds in ((guess, 2e-6), (norm.searched[1], 3e-6), (best, 1e-6)):
        records.add([Record(norm.key, norm.name, norm.template, repr(knobs), seconds)])
    choose = Recorded(Records.existing(tmp_path / "r.jsonl"), HOST)
    assert choose(norm.job, task_of(NORM).plan) == best
    assert recalled(norm.plan, ["NoKnobs()", "Traced(trace=1)", "Traced(trace='", repr(best)]) == (
        best,
    )


def test_replaying_imports_no_search(norm: TuningTask, tmp_path: Path) -> None:
    (tmp_path / "knobs").write_text(repr(norm.searched[0]))
    (tmp_path / "graph").write_text(NORM)
    script = (
        "import sys, pathlib; from optc.autotune.task import tasks_of; "
        "from optc.backends.tvm.kernel import build; from optc.ir.targets.detect import host; "
        "from optc.backends.tvm.templates.traced import Traced; from optc.ir.text import parse; "
        "knobs = Traced.read(pathlib.Path('knobs').read_text()); "
        "(task,) = tasks_of(parse(pathlib.Path('graph').read_text()), host()); "
        "build(task.job, host(), lambda job, plan: knobs); "
        "assert 'tvm.s_tir.tensor_intrin' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_a_trace_of_another_task_is_refused(norm: TuningTask) -> None:
    (graph,) = parse(SCAN.replace("cum_sum", "softmax")).graphs
    plan = GenericPlan(Problem(graph, frozenset(), HOST))
    with pytest.raises(Exception, match=r"(?i)block"):
        plan.emit("f", norm.searched[0])
