"""The loop: it finds the optimum, wastes nothing, keeps everything, and stops where it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from optc.autotune.events import Budget, Event, Guessed, Outcome, Planned, Stop, Tried, Widening
from optc.autotune.records import Records
from optc.autotune.search import Strategy, search
from optc.autotune.session import BATCH, tune
from optc.autotune.task import TuningTask
from optc.ir.cost import Cost
from tests.autotune.landscape import Clock, Grid, Machine, Tile, bowl, made_up


def run(
    tmp_path: Path,
    machine: Machine,
    budget: Budget,
    *tasks: TuningTask,
    strategy: Strategy = Strategy.EVOLUTIONARY,
    **options: object,
) -> Outcome:
    return tune(
        tasks or (made_up("a"),),
        machine,
        Records.open(tmp_path / "r.jsonl"),
        budget,
        lambda task: search(strategy, task.candidates),
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("strategy", Strategy)
def test_every_search_finds_the_optimum_of_a_space_it_may_exhaust(
    tmp_path: Path, strategy: Strategy
) -> None:
    outcome = run(tmp_path, Machine(), Budget(), strategy=strategy)
    assert outcome.stop is Stop.EXHAUSTED
    assert outcome.after == pytest.approx(1e-3)
    best = Records.open(tmp_path / "r.jsonl").best("key of a")
    assert best is not None
    assert best.knobs == repr(Tile(5, 6))


def test_the_evolutionary_search_needs_less_than_half_of_a_smooth_space(tmp_path: Path) -> None:
    outcome = run(tmp_path, Machine(), Budget(trials=200), made_up("a", plan=Grid(20, 20)))
    assert outcome.after == pytest.approx(1e-3)


def test_trials_are_counted_to_the_number_asked_for(tmp_path: Path) -> None:
    machine = Machine()
    outcome = run(tmp_path, machine, Budget(trials=13))
    assert outcome.stop is Stop.TRIALS
    assert outcome.rows[0].trials == 13
    assert len(set(machine.asked)) == 14  # and the best guess


def test_the_same_budget_again_measures_nothing(tmp_path: Path) -> None:
    first = run(tmp_path, Machine(), Budget(trials=13))
    again = Machine()
    outcome = run(tmp_path, again, Budget(trials=13))
    assert again.asked == []
    assert outcome.rows == first.rows


def test_a_larger_budget_goes_on_where_the_smaller_stopped(tmp_path: Path) -> None:
    first, second = Machine(), Machine()
    run(tmp_path, first, Budget(trials=13))
    run(tmp_path, second, Budget(trials=30))
    anew = set(second.asked) - set(first.asked)
    assert len(anew) == 30 - 13
    repeated = Counter(second.asked)
    known = {pair for pair in first.asked if pair in repeated}
    # The guess goes along as a yardstick; a winner that was measured once is measured again.
    assert len(known) <= 2


def test_an_exhausted_space_is_not_measured_again(tmp_path: Path) -> None:
    run(tmp_path, Machine(), Budget())
    again = Machine()
    assert run(tmp_path, again, Budget()).stop is Stop.EXHAUSTED
    assert again.asked == []


def test_the_time_budget_ends_the_session_about_then(tmp_path: Path) -> None:
    clock = Clock()

    class Slow(Machine):
        def measure(self, task, knobs):  # type: ignore[no-untyped-def]
            clock.now += len(knobs)
            return super().measure(task, knobs)

    outcome = run(tmp_path, Slow(), Budget(seconds=40), clock=clock)
    assert outcome.stop is Stop.SECONDS
    assert 30 <= clock.now <= 40 + BATCH + 2


def test_it_stops_when_the_model_is_as_fast_as_asked_for(tmp_path: Path) -> None:
    machine = Machine()
    outcome = run(tmp_path, machine, Budget(until=4e-3), made_up("a", uses=2), made_up("b"))
    assert outcome.stop is Stop.UNTIL
    assert outcome.after <= 4e-3 < outcome.before
    assert len(machine.asked) < 2 * 64


def test_trials_go_where_the_run_time_is(tmp_path: Path) -> None:
    def seconds(name: str, knobs: Tile) -> float:
        return bowl(name, knobs) * (10 if name == "long" else 1)

    tasks = made_up("short"), made_up("long", plan=Grid(20, 20))
    outcome = run(tmp_path, Machine(seconds), Budget(trials=80), *tasks)
    short, long = outcome.rows
    assert long.trials > 4 * max(1, short.trials)


def test_trivial_tasks_are_measured_once_and_never_tuned(tmp_path: Path) -> None:
    def seconds(name: str, knobs: Tile) -> float:
        return bowl(name, knobs) / (1000 if name == "short" else 1)

    events: list[Event] = []
    tasks = made_up("long"), made_up("short"), made_up("only way", plan=Grid(1, 1))
    machine = Machine(seconds)
    run(tmp_path, machine, Budget(), *tasks, observe=events.append)
    assert machine.asked.count(("short", Tile(0, 0))) == 1
    assert {name for name, _ in machine.asked[3:]} == {"long"}
    (planned,) = [event for event in events if isinstance(event, Planned)]
    assert [task.name for task in planned.tuned] == ["long"]
    assert sum(isinstance(event, Guessed) for event in events) == 3


def test_only_chosen_tasks_are_tuned(tmp_path: Path) -> None:
    machine = Machine()
    tasks = made_up("a"), made_up("b")
    run(tmp_path, machine, Budget(), *tasks, chosen=lambda task: task.name == "b")
    assert [name for name, _ in machine.asked].count("a") == 1


def test_a_machine_that_drifts_does_not_mislead(tmp_path: Path) -> None:
    # Every call the machine is slower than before: absolute times would favour what came first.
    outcome = run(tmp_path, Machine(drift=lambda call: 1 + 0.2 * call), Budget())
    assert outcome.before / outcome.after == pytest.approx(bowl("", Tile(0, 0)) / 1e-3)
    best = Records.open(tmp_path / "r.jsonl").best("key of a")
    assert best is not None
    assert best.knobs == repr(Tile(5, 6))


def test_luck_is_found_out(tmp_path: Path) -> None:
    seen: Counter[Tile] = Counter()

    def seconds(name: str, knobs: Tile) -> float:
        seen[knobs] += 1
        lucky = knobs == Tile(2, 2) and seen[knobs] == 1
        return 0.9e-3 if lucky else 2e-3 if knobs == Tile(2, 2) else bowl(name, knobs)

    outcome = run(tmp_path, Machine(seconds), Budget(trials=63))
    assert outcome.after == pytest.approx(1e-3)


def test_candidates_that_fail_are_recorded_and_not_tried_again(tmp_path: Path) -> None:
    def seconds(name: str, knobs: Tile) -> float | None:
        return None if knobs.columns % 2 else bowl(name, knobs)

    machine = Machine(seconds)
    outcome = run(tmp_path, machine, Budget())
    assert len(outcome.failures) == 32
    assert outcome.failures[0].error == "it crashed"
    failed = [pair for pair in machine.asked if pair[1].columns % 2]
    assert len(failed) == len(set(failed)) == 32
    assert outcome.after == pytest.approx(1e-3)


def test_a_task_of_which_nothing_runs_is_given_up(tmp_path: Path) -> None:
    machine = Machine(lambda name, knobs: None if name == "broken" else bowl(name, knobs))
    outcome = run(tmp_path, machine, Budget(), made_up("broken"), made_up("a"))
    assert [name for name, _ in machine.asked].count("broken") <= 2 * BATCH + 2
    assert outcome.rows[0].after is None
    assert outcome.rows[1].after == pytest.approx(1e-3)


def test_what_it_says_on_the_way_is_what_comes_out(tmp_path: Path) -> None:
    events: list[Event] = []
    outcome = run(tmp_path, Machine(), Budget(trials=40), observe=events.append)
    tried = [event for event in events if isinstance(event, Tried)]
    assert sum(event.count for event in tried) == 40
    assert tried[-1].trials == 40
    assert [point.trials for point in outcome.curve][:2] == [0, BATCH]
    assert outcome.curve[0].seconds == outcome.before
    assert outcome.curve[-1].seconds == outcome.after
    falling = [point.seconds for point in outcome.curve]
    assert falling == sorted(falling, reverse=True)
    assert outcome.paid in outcome.curve


ROOT = Path(__file__).parents[2]
KILLED = """
import sys
from pathlib import Path
from optc.autotune.events import Budget
from optc.autotune.records import Records
from optc.autotune.search import Strategy, search
from optc.autotune.session import tune
from tests.autotune.landscape import Machine, made_up
records = Records.open(Path(sys.argv[1]))
tune((made_up("a"),), Machine(pause=0.01), records, Budget(),
     lambda task: search(Strategy.EXHAUSTIVE, task.candidates))
"""


def test_a_killed_session_loses_at_most_the_batch_under_way(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    while process.poll() is None and not (path.exists() and len(Records.open(path)) > 20):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {record.knobs for record in Records.open(path)}
    assert 20 < len(kept) < 64
    rest = Machine()
    outcome = run(tmp_path, rest, Budget(), strategy=Strategy.EXHAUSTIVE)
    anew = [repr(knobs) for _, knobs in rest.asked if repr(knobs) not in kept]
    assert len(set(anew)) == 64 - len(kept)
    assert outcome.after == pytest.approx(1e-3)
    assert len(Records.open(path)) == 64


def test_a_task_with_one_candidate_is_widened_when_it_is_worth_it(tmp_path: Path) -> None:
    single, trivial = made_up("a", plan=Grid(1, 1)), made_up("b", plan=Grid(1, 1))
    events: list[Event] = []

    def widen(task: TuningTask) -> TuningTask:
        return replace(task, searched=tuple(Tile(5, column) for column in range(10)))

    def seconds(name: str, knobs: Tile) -> float:
        return bowl(name, knobs) * (1 if name == "a" else 1e-3)

    machine = Machine(seconds)
    outcome = run(tmp_path, machine, Budget(), single, trivial, widen=widen, observe=events.append)
    assert [event.task.name for event in events if isinstance(event, Widening)] == ["a"]
    assert outcome.rows[0].after == pytest.approx(1e-3)
    assert {knobs for name, knobs in machine.asked if name == "b"} == {Tile(0, 0)}


def test_what_is_too_small_to_be_measured_is_not_widened(tmp_path: Path) -> None:
    large = made_up("large")
    dust = replace(made_up("dust", plan=Grid(1, 1)), cost=Cost(0, 0, 0))
    events: list[Event] = []
    machine = Machine()
    run(tmp_path, machine, Budget(trials=8), large, dust, observe=events.append)
    assert not any(isinstance(event, Widening) for event in events)
    assert {name for name, _ in machine.asked} == {"large"}


@pytest.mark.parametrize("budget", [Budget(until=1.0), Budget(trials=0), Budget(seconds=0.0)])
def test_nothing_is_widened_when_the_budget_is_spent(tmp_path: Path, budget: Budget) -> None:
    events: list[Event] = []
    single = made_up("a", plan=Grid(1, 1))
    outcome = run(tmp_path, Machine(), budget, single, observe=events.append)
    assert not any(isinstance(event, Widening) for event in events)
    assert outcome.stop in (Stop.UNTIL, Stop.TRIALS, Stop.SECONDS)
