"""The loop of the tuner: measure best guesses, then give trials to the task that may save most.

The next task is the one with the steepest expected fall of the model's run time (Zheng et al. 2020,
section 6): a share of what its last batches saved, and the rest an optimistic guess that falls with
the batches it has had. Their third term, the speed of similar tasks, is left out: a product of one
row never gets as fast as a square one, and would draw all trials.

Machines drift by more than candidates differ. So every batch measures the best guess along, and a
record holds the candidate's time relative to it, times what the guess took at first. The fastest
of many noisy numbers is fast by luck too: it is measured a second time, and the slower one counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from optc.autotune.choice import fastest
from optc.autotune.events import (
    Budget,
    Event,
    Guessed,
    Outcome,
    Planned,
    Point,
    Row,
    Stop,
    Tried,
    Trying,
    Widening,
)
from optc.autotune.measurer import Measurement, Measurer
from optc.autotune.records import Record, Records
from optc.autotune.search import Search
from optc.autotune.task import TuningTask
from optc.backends.tvm.templates.plan import Knobs

TRIVIAL = 0.01  # share of the run time below which a task is never tuned
BATCH = 8
NEGLIGIBLE = 0.002  # estimated share below which what cannot be tuned is not even measured
BYTE = 8  # operations that take as long as moving a byte, for that estimate
SECOND_LOOKS = 4  # at most, at the end: each may make another candidate the fastest
BACKWARD, WINDOW = 0.2, 3  # weight of past savings, and over how many batches


Observe = Callable[[Event], None]
Searches = Callable[[TuningTask], Search]
Widen = Callable[[TuningTask], TuningTask]
Featurize = Callable[[TuningTask, Knobs], tuple[float, ...]]


def tune(
    tasks: Sequence[TuningTask],
    measurer: Measurer,
    records: Records,
    budget: Budget,
    searches: Searches,
    *,
    chosen: Callable[[TuningTask], bool] = lambda _: True,
    observe: Observe = lambda _: None,
    features: Featurize = lambda _task, _knobs: (),
    widen: Widen = lambda task: task,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Measure candidates until the budget is spent; every batch is recorded before the next.

    `chosen` says which tasks may be tuned at all; `widen` may give more candidates to those of them
    that are worth it. May be interrupted at any time: what was measured is in the records, and a
    session with the same records goes on from there.
    """
    session = _Session(measurer, records, budget, searches, observe, features, widen, clock)
    return session.run([_State(task) for task in tasks], chosen)


@dataclass(eq=False)
class _State:
    """A task on its way."""

    task: TuningTask
    search: Search | None = None  # of a task that is worth one
    told: set[str] = field(default_factory=set)
    bests: list[float] = field(default_factory=list)  # after each batch of this session
    counts: bool = True  # towards the budget
    is_open: bool = False

    @property
    def candidates(self) -> Sequence[Knobs]:
        return self.task.candidates

    @property
    def guess(self) -> Knobs:
        return self.candidates[0]

    @property
    def trials(self) -> int:
        """Known candidates beside the best guess."""
        return len(self.told - {repr(self.guess)})

    def tell(self, known: Mapping[str, Record]) -> None:
        """Pass on to the search what it has not heard."""
        for knobs in self.candidates:
            name = repr(knobs)
            if name in known and name not in self.told:
                self.told.add(name)
                if self.search is not None:
                    self.search.tell(knobs, known[name].seconds)


@dataclass(eq=False)
class _Session:
    measurer: Measurer
    records: Records
    budget: Budget
    searches: Searches
    observe: Observe
    features: Featurize
    widen: Widen
    clock: Callable[[], float]
    failures: list[Record] = field(default_factory=list)
    curve: list[Point] = field(default_factory=list)
    checked: set[tuple[str, str]] = field(default_factory=set)  # measured again, by key and knobs
    calls: int = 0  # of the measurer, and how long they took
    busy: float = 0.0

    def run(self, states: list[_State], chosen: Callable[[TuningTask], bool]) -> Outcome:
        self.states, self.start = states, self.clock()
        self.first = 0
        self._guesses()
        self._plan(chosen)
        self.first = self._trials()
        self._mark()
        stop = self._loop()
        self._confirm()
        return Outcome(stop, tuple(map(self._row, states)), tuple(self.curve), tuple(self.failures))

    # Best guesses.

    def _guesses(self) -> None:
        """Time the best guess of every task, the dearest first, but for what is next to nothing."""
        least = NEGLIGIBLE * sum(map(_weight, self.states))
        missing = [
            s
            for s in self.states
            if repr(s.guess) not in self._known(s)
            and (len(s.candidates) > 1 or _weight(s) >= least)
        ]
        missing.sort(key=_weight, reverse=True)
        for done, state in enumerate(missing, 1):
            (measured,) = self._measure(state, [state.guess])
            self._add([self._record(state, state.guess, measured, measured.seconds)])
            self.observe(Guessed(state.task, measured.seconds, done, len(missing)))

    def _plan(self, chosen: Callable[[TuningTask], bool]) -> None:
        whole = sum(s.task.uses * (self._before(s) or 0.0) for s in self.states)
        for state in self.states:
            share = self._share(state, whole)
            state.counts = chosen(state.task)
            if state.counts and share >= TRIVIAL:
                if len(state.candidates) == 1 and self._spent() is None:  # it takes long
                    self.observe(Widening(state.task))
                    state.task = self.widen(state.task)
                state.is_open = len(state.candidates) > 1
            if state.is_open:
                state.search = self.searches(state.task)
            state.tell(self._known(state))
        tuned = tuple(s.task for s in self.states if s.is_open)
        trivial = tuple(s.task for s in self.states if not s.is_open)
        self.observe(Planned(tuned, trivial, whole, self._trials()))

    def _share(self, state: _State, whole: float) -> float:
        """Of the run time. A guess that failed may be worth anything, one not measured nothing."""
        if repr(state.guess) not in self._known(state):
            return 0.0
        before = self._before(state)
        return math.inf if before is None else state.task.uses * before / (whole or 1.0)

    # The loop.

    def _loop(self) -> Stop:
        while True:
            stop = self._spent()
            if stop is not None:
                return stop
            state = max((s for s in self.states if s.is_open), key=self._promise, default=None)
            if state is None:
                return Stop.EXHAUSTED
            self._batch(state)

    def _spent(self) -> Stop | None:
        budget = self.budget
        if budget.until is not None and self._seconds() <= budget.until:
            return Stop.UNTIL
        if budget.trials is not None and self._trials() >= budget.trials:
            return Stop.TRIALS
        if budget.seconds is not None and self._left() <= 0:
            return Stop.SECONDS
        return None

    def _left(self) -> float:
        """Seconds for searching: what is left but for measuring doubtful winners once more."""
        assert self.budget.seconds is not None
        later = len(self._doubtful()) * self.busy / max(1, self.calls)
        return self.budget.seconds - (self.clock() - self.start) - later

    def _promise(self, state: _State) -> float:
        """Seconds of a run that the next batch of this task may save."""
        best = self._best(state)
        if best is None:
            return math.inf
        past = state.bests[-WINDOW - 1 :]
        fall = (past[0] - best) / (len(past) - 1) if len(past) > 1 else 0.0
        hope = best / (math.ceil(state.trials / BATCH) + 1)
        return state.task.uses * (BACKWARD * fall + (1 - BACKWARD) * hope)

    def _batch(self, state: _State) -> None:
        left = BATCH
        if self.budget.trials is not None:
            left = min(left, self.budget.trials - self._trials())
        asked = state.search.ask(left) if state.search is not None else []
        if not asked:
            state.is_open = False
            return
        before = self._best(state)
        state.bests = state.bests or ([before] if before is not None else [])
        self.observe(Trying(state.task, len(asked), before))
        again = [knobs for knobs in self._rivals(state) if self._is_doubtful(state, knobs)]
        self.checked |= {(state.task.key, repr(knobs)) for knobs in again}
        found = self._compare(state, [*again, *asked])
        best = self._best(state)
        if best is None:  # nothing ran, the best guess neither: the others would not help
            state.is_open = False
        else:
            state.bests.append(best)
        self._mark()
        failed = sum(record.seconds is None for record in found[len(again) :])
        seconds = self._seconds()
        self.observe(Tried(state.task, len(asked), failed, before, best, self._trials(), seconds))

    def _compare(self, state: _State, knobs: Sequence[Knobs]) -> list[Record]:
        """Measure candidates beside the best guess and record what they take relative to it."""
        before = self._before(state)
        guess, *rest = self._measure(state, [state.guess, *knobs])
        found = [
            self._record(state, one, it, _beside(it, guess, before))
            for one, it in zip(knobs, rest, strict=True)
        ]
        self._add(found)
        state.tell(self._known(state))
        return found

    # The fastest, measured once more.

    def _rivals(self, state: _State) -> list[Knobs]:
        """The fastest candidate, when it is not the best guess."""
        best = fastest(state.candidates, self._known(state))
        return [] if best in (None, state.guess) else [best]

    def _is_doubtful(self, state: _State, knobs: Knobs) -> bool:
        name = repr(knobs)
        measured_once = self._known(state)[name].runs < 2
        return measured_once and (state.task.key, name) not in self.checked

    def _doubtful(self) -> list[tuple[_State, Knobs]]:
        return [
            (s, knobs)
            for s in self.states
            if s.bests  # that is, it was tuned in this session
            for knobs in self._rivals(s)
            if self._is_doubtful(s, knobs)
        ]

    def _confirm(self) -> None:
        for _ in range(SECOND_LOOKS):
            for state, knobs in self._doubtful():
                self.checked.add((state.task.key, repr(knobs)))
                self._compare(state, [knobs])
        if self.curve[-1].seconds != self._seconds():
            self._mark()

    # Records.

    def _measure(self, state: _State, knobs: Sequence[Knobs]) -> list[Measurement]:
        begin = self.clock()
        found = self.measurer.measure(state.task, knobs)
        self.calls, self.busy = self.calls + 1, self.busy + self.clock() - begin
        return found

    def _record(
        self, state: _State, knobs: Knobs, measured: Measurement, seconds: float | None
    ) -> Record:
        task, name = state.task, repr(knobs)
        known = self._known(state).get(name)
        features = known.features if known else self.features(task, knobs)
        record = Record(
            task.key, task.name, task.template, name, seconds, measured.times, measured.error,
            self.measurer.machine, 1, features,
        )  # fmt: skip
        if known is None or known.seconds is None or seconds is None:
            return record
        return replace(
            record,
            seconds=max(known.seconds, seconds),
            times=(*known.times, *measured.times),
            runs=known.runs + 1,
        )

    def _add(self, found: Sequence[Record]) -> None:
        self.records.add(found)
        self.failures += [record for record in found if record.seconds is None]

    def _known(self, state: _State) -> Mapping[str, Record]:
        return self.records.of(state.task.key)

    def _before(self, state: _State) -> float | None:
        record = self._known(state).get(repr(state.guess))
        return record.seconds if record else None

    def _best(self, state: _State) -> float | None:
        best = fastest(state.candidates, self._known(state))
        return None if best is None else self._known(state)[repr(best)].seconds

    def _trials(self) -> int:
        """Candidates beside the best guesses that are known, in this session and before."""
        return sum(state.trials for state in self.states if state.counts)

    def _seconds(self) -> float:
        return sum(s.task.uses * (self._best(s) or 0.0) for s in self.states)

    def _mark(self) -> None:
        elapsed = self.clock() - self.start
        self.curve.append(Point(self._trials() - self.first, elapsed, self._seconds()))

    def _row(self, state: _State) -> Row:
        tuned = state.is_open or state.trials > 0
        return Row(state.task, self._before(state), self._best(state), state.trials, tuned)


def _weight(state: _State) -> float:
    """How much of a run the task may be, before anything is measured."""
    price = state.task.cost
    return float(state.task.uses * (price.flops + BYTE * price.bytes))


def _beside(candidate: Measurement, guess: Measurement, before: float | None) -> float | None:
    """Seconds of a candidate if the best guess takes `before`, with doubts against the candidate.

    By their times, and by the median of the rounds that both ran in: a candidate must be faster
    both ways, because noise that hits the guess makes every candidate look good.
    """
    if candidate.seconds is None or not guess.seconds or not before:
        return candidate.seconds
    ratio = candidate.seconds / guess.seconds
    if candidate.times and len(candidate.times) == len(guess.times) and all(guess.times):
        rounds = zip(candidate.times, guess.times, strict=True)
        ratio = max(ratio, median(mine / its for mine, its in rounds))
    return ratio * before
