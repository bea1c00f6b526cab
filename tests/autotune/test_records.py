"""Records: what is kept of several, files that were cut, merging."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from optc.autotune.choice import MARGIN, fastest
from optc.autotune.records import Record, Records, read
from tests.autotune.landscape import Tile


def record(knobs: object, seconds: float | None, **changes: object) -> Record:
    made = Record("key", "task", "grid/1", repr(knobs), seconds)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_lines_survive_the_way_through_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "r.jsonl"
    full = record(Tile(1, 2), 1e-3, times=(1e-3, 2e-3), features=(1.0, 2.5), machine="here", runs=2)
    failed = record(Tile(2, 2), None, error='it said "no"\nand left')
    assert Records.open(path).add([full, failed]) == 2
    assert list(read(path)) == [full, failed]


def test_a_cut_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    Records.open(path).add([record(Tile(1, i), 1.0) for i in range(3)])
    path.write_bytes(path.read_bytes()[:-10])
    assert len(Records.open(path)) == 2
    Records.open(path).add([record(Tile(1, 2), 1.0)])
    assert len(Records.open(path)) == 3


def test_lines_of_another_version_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    Records.open(path).add([record(Tile(0, 0), 1.0, version=2)])
    assert len(Records.open(path)) == 0


def test_more_runs_say_more_and_among_equals_the_fastest(tmp_path: Path) -> None:
    records = Records.open(tmp_path / "r.jsonl")
    records.add([record(Tile(0, 0), 2.0), record(Tile(0, 0), 1.0), record(Tile(0, 0), 3.0, runs=2)])
    assert records.of("key")[repr(Tile(0, 0))].seconds == 3.0
    assert records.add([record(Tile(0, 0), 0.5), record(Tile(0, 0), None)]) == 0


def test_merging_twice_adds_nothing(tmp_path: Path) -> None:
    ours, theirs = Records.open(tmp_path / "ours"), Records.open(tmp_path / "theirs")
    ours.add([record(Tile(0, 0), 1.0), record(Tile(0, 1), 2.0)])
    theirs.add([record(Tile(0, 1), 1.5), record(Tile(0, 2), None, error="crash")])
    assert ours.add(theirs) == 2
    size = ours.path.stat().st_size
    assert ours.add(theirs) == 0
    assert ours.path.stat().st_size == size
    assert len(Records.open(ours.path)) == 3


def test_the_best_guess_stays_unless_another_is_clearly_faster() -> None:
    guess, other = Tile(0, 0), Tile(0, 1)

    def known(seconds: float) -> dict[str, Record]:
        return {repr(guess): record(guess, 1.0), repr(other): record(other, seconds)}

    assert fastest([guess, other], known(1 - MARGIN / 2)) == guess
    assert fastest([guess, other], known(1 - MARGIN * 2)) == other


def test_records_of_knobs_that_are_gone_say_nothing() -> None:
    gone = {repr(Tile(9, 9)): record(Tile(9, 9), 0.1), repr(Tile(0, 1)): record(Tile(0, 1), None)}
    assert fastest([Tile(0, 0), Tile(0, 1)], gone) is None
