"""`optc tune` and `--tune`: budgets, records, what the artifact then holds. Times are made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from optc.autotune.measurer import Measurement
from optc.autotune.records import Records
from optc.autotune.task import TuningTask
from optc.cli.tuning import Wishes, duration
from optc.ir.targets.target import Target
from tests.cli.conftest import Optc


class LastIsFastest:
    """A measurer for which the candidates that the analytic model likes least are the fastest."""

    machine = "made up"

    def __init__(self) -> None:
        self.measured: list[str] = []
        self.interrupt_at = 1 << 30
        self.closed = 0

    def measure(self, task: TuningTask, knobs: Sequence[Any]) -> list[Measurement]:
        if len(self.measured) >= self.interrupt_at:
            raise KeyboardInterrupt
        self.measured += [f"{task.name} {one!r}" for one in knobs]
        order = [repr(one) for one in task.candidates]
        times = [1e-3 / (1 + order.index(repr(one))) for one in knobs]
        return [Measurement(one, (one, one)) for one in times]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def measurer(monkeypatch: pytest.MonkeyPatch) -> LastIsFastest:
    made = LastIsFastest()

    def measurer_of(target: Target, wishes: Wishes) -> LastIsFastest:
        return made

    monkeypatch.setattr("optc.cli.tuning.measurer_of", measurer_of)
    return made


def lock(folder: str) -> dict[str, Any]:
    return dict(json.loads(Path(folder, "lock.json").read_text()))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90.0), ("10m", 600.0), ("1h30m", 5400.0), ("5ms", 5e-3), ("1.5s", 1.5), ("7us", 7e-6)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "m", "10 m", "10x", "-5s", "10mm", "s10"])
def test_what_is_no_duration(text: str) -> None:
    assert duration(text) is None


def test_tuning_ends_in_a_table_and_keeps_records(
    optc: Optc, graph: Path, measurer: LastIsFastest
) -> None:
    result = optc("tune", graph, "--records", "r.jsonl", "--search", "exhaustive")
    assert result.code == 0, result.err
    assert "there is nothing left to try" in result.out
    assert "95 % of the gain" in result.out
    assert "linear_relu" in result.out
    assert "tasks are worth tuning" in result.err
    assert "trials" in result.err
    assert len(Records.open(Path("r.jsonl"))) == len(set(measurer.measured))
    assert measurer.closed == 1


def test_the_same_command_again_measures_nothing(
    optc: Optc, graph: Path, measurer: LastIsFastest
) -> None:
    command = ("tune", graph, "--records", "r.jsonl", "--trials", "3")
    assert optc(*command).code == 0
    before = len(measurer.measured)
    result = optc(*command)
    assert result.code == 0
    assert "the number of trials is reached" in result.out
    assert len(measurer.measured) == before


def test_ctrl_c_is_one_line_and_loses_nothing(
    optc: Optc, graph: Path, measurer: LastIsFastest
) -> None:
    measurer.interrupt_at = 3
    result = optc("tune", graph, "--records", "r.jsonl")
    assert result.code == 130
    assert "are kept in r.jsonl" in result.err
    assert len(Records.open(Path("r.jsonl"))) == len(set(measurer.measured)) >= 3
    assert measurer.closed == 1


def test_records_choose_the_kernels_of_the_artifact(
    optc: Optc, graph: Path, measurer: LastIsFastest
) -> None:
    assert optc("compile", graph, "-o", "plain", "--no-bench").code == 0
    assert optc("tune", graph, "--records", "r.jsonl").code == 0
    done = optc("compile", graph, "-o", "tuned", "--records", "r.jsonl", "--no-bench")
    assert done.code == 0, done.err
    assert "tuned" not in lock("plain")
    records = Records.open(Path("r.jsonl"))
    chosen = lock("tuned")["tuned"]["knobs"]
    assert chosen
    for key, knobs in chosen.items():
        best = records.best(key)
        assert best is not None
        assert best.knobs == knobs
    assert Path("tuned", "model.so").read_bytes() != Path("plain", "model.so").read_bytes()


def test_without_records_the_bytes_are_as_before(
    optc: Optc, graph: Path, measurer: LastIsFastest
) -> None:
    assert optc("compile", graph, "-o", "one", "--no-bench").code == 0
    assert optc("tune", graph).code == 0  # into the default database, which nobody asked for below
    assert optc("compile", graph, "-o", "two", "--no-bench").code == 0
    Path("empty.jsonl").touch()
    done = optc("compile", graph, "-o", "three", "--no-bench", "--records", "empty.jsonl")
    assert done.code == 0, done.err
    for name in ("model.so", "weights.bin"):
        one, two, three = (Path(out, name).read_bytes() for out in ("one", "two", "three"))
        assert one == two == three
    assert lock("one") == lock("two")


def test_compile_tunes_first_and_uses_what_it_found(
    optc: Optc, graph: Path, measurer: LastIsFastest
) -> None:
    flags = ("--no-bench", "--records", "r.jsonl")
    done = optc("compile", graph, "-o", "out", "--tune", "500", *flags)
    assert done.code == 0, done.err
    assert "kernels of a run" in done.out
    assert lock("out")["tuned"]["knobs"]
    count = len(measurer.measured)
    assert optc("compile", graph, "-o", "again", "--tune", "0", *flags).code == 0
    assert len(measurer.measured) == count
    assert lock("again") == lock("out")
    assert Path("again", "model.so").read_bytes() == Path("out", "model.so").read_bytes()


def test_databases_travel(optc: Optc, graph: Path, measurer: LastIsFastest) -> None:
    assert optc("tune", graph, "--records", "a.jsonl", "--export", "shared.jsonl").code == 0
    count = len(Records.open(Path("shared.jsonl")))
    assert count == len(Records.open(Path("a.jsonl")))
    done = optc("tune", "--import", "shared.jsonl", "--records", "b.jsonl")
    assert f"imported {count} new of {count}" in done.out
    assert "imported 0 new" in optc("tune", "--import", "a.jsonl", "--records", "b.jsonl").out
    assert f"exported {count}" in optc("tune", "--records", "b.jsonl", "--export", "c.jsonl").out
    asked = len(measurer.measured)
    assert optc("tune", graph, "--records", "b.jsonl").code == 0
    assert len(measurer.measured) == asked


def test_only_and_skip_take_patterns(optc: Optc, graph: Path, measurer: LastIsFastest) -> None:
    assert optc("tune", graph, "--records", "r.jsonl", "--skip", "*").code == 0
    assert (
        len(measurer.measured) == len(set(measurer.measured)) == len(Records.open(Path("r.jsonl")))
    )
    names = {text.split()[0] for text in measurer.measured}
    assert len(measurer.measured) == len(names)  # best guesses only
    name = min(names)
    assert optc("tune", graph, "--records", "r.jsonl", "--only", name).code == 0
    assert {text.split()[0] for text in measurer.measured[len(names) :]} == {name}


@pytest.mark.parametrize(
    ("arguments", "code", "offer"),
    [
        ([], "E0703", "MODEL"),
        (["mlp.optc", "--time", "10"], "E0703", "90s"),
        (["mlp.optc", "--until", "fast"], "E0703", "5ms"),
        (["mlp.optc", "--search", "grid"], "E0703", "random"),
        (["mlp.optc", "--trails", "5"], "E0701", "--trials"),
        (["mlp.optc", "--only", "linaer"], "E0731", "linear"),
        (["mlp.optc", "--target", "cuda"], "E0732", "--tune"),
        (["mlp.optc", "--records", "mlp.optc"], "E0730", "mlp.optc"),
        (["--import", "missing.jsonl"], "E0112", "missing.jsonl"),
        (["--import", "mlp.optc"], "E0730", "mlp.optc"),
        (["missing.pt2"], "E0112", "missing.pt2"),
        (["--export", "out.jsonl", "--records", "none.jsonl"], "E0730", "none.jsonl"),
    ],
)
def test_bad_input_gets_one_diagnostic(
    optc: Optc, graph: Path, measurer: LastIsFastest, arguments: list[str], code: str, offer: str
) -> None:
    content = graph.read_text()
    result = optc("tune", *arguments)
    assert (result.code, result.diagnostics) == (1, [code])
    assert offer in result.err
    assert measurer.measured == []
    assert graph.read_text() == content
    assert list(Path().iterdir()) == [Path("mlp.optc")]


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--tune", "ten"], "E0703"),
        (["--tune", "5ms"], "E0703"),
        (["--records", "missing.jsonl"], "E0112"),
        (["--records", "mlp.optc"], "E0730"),
        (["--tune", "5", "--target", "cuda"], "E0732"),
    ],
)
def test_compile_refuses_what_tune_refuses(
    optc: Optc, graph: Path, flags: list[str], code: str
) -> None:
    result = optc("compile", graph, "-o", "out", *flags)
    assert (result.code, result.diagnostics) == (1, [code])
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--target", "cortex-a76"], "E0733"),
        (["--device", "trakcer:host:9190/key"], "E0737"),
        (["--workers", "many"], "E0737"),
    ],
)
def test_a_place_that_cannot_measure_is_found_out_before_the_model_is_read(
    optc: Optc, flags: list[str], code: str
) -> None:
    assert optc("tune", "missing.pt2", *flags).diagnostics == [code]


def test_a_model_is_tuned_for_real(optc: Optc, graph: Path) -> None:
    result = optc("tune", graph, "--records", "r.jsonl", "--trials", "2")
    assert result.code == 0, result.err
    records = list(Records.open(Path("r.jsonl")))
    assert len(records) == 4  # two best guesses
    assert [record.error for record in records] == [""] * 4
    assert all(record.seconds and record.times and record.machine for record in records)
    done = optc("compile", graph, "-o", "out", "--records", "r.jsonl", "--no-bench")
    assert done.code == 0, done.err
    assert optc("diff", graph, "out").code == 0


def test_without_the_extra_there_is_one_remark(
    optc: Optc, graph: Path, measurer: LastIsFastest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optc.autotune.model.PACKAGE", "no_such_package")
    result = optc("tune", graph, "--records", "r.jsonl", "--trials", "2")
    assert result.code == 0
    assert result.err.count("N0734") == 1
