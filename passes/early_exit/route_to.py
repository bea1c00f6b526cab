"""The module becomes the small model in front of a large one: `optc route`.

Its threshold is the boldest that calibration data confirm. It is in no catalogue: an option of a
pass is text, and a model is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan

import numpy as np
from numpy.typing import NDArray

from optc.ir.diagnostics import error
from optc.ir.graph import Value
from optc.ir.module import Module, Run
from optc.passes.base import Effect, Pass, PassContext, run_passes
from optc.passes.calibration import Array
from optc.passes.early_exit.bounds import METHOD, needed
from optc.passes.early_exit.decision import Decision, scores
from optc.passes.early_exit.heads import fit_temperature
from optc.passes.early_exit.packing import Packing, in_groups
from optc.passes.early_exit.plan import ExitPlan, PlannedExit, curve
from optc.passes.early_exit.price import total
from optc.passes.early_exit.route import NAME, Route, check_pair, routed
from optc.passes.early_exit.study import BUDGET
from optc.passes.early_exit.thresholds import Policy, Prices, Trials, choose
from optc.passes.precision.integerize import Integerize
from optc.passes.standard import CANONICALIZE, RAISE

PROPOSE = 0.35  # of the calibration calls; the rest confirms


@dataclass(frozen=True)
class RouteTo(Pass):
    """Answer with this model where it is sure, and with `large` where it is not.

    `output` names the class scores that decide: those that are judged, or the first. Without a
    `threshold` it is chosen on calibration data, so that the accuracy budget (1 % without one)
    holds with a probability of 1 - `risk`.
    """

    name = "route-to"
    effect = Effect.LOSSY
    large: Module
    output: str | None = None
    decision: Decision = Decision.ENERGY
    threshold: float | None = None
    risk: float = 0.05

    def __str__(self) -> str:
        return f"{self.name}{{large={self.large.name},decision={self.decision.value}}}"

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The two models behind one flow; raises E0764, E0767 and E0768."""
        output = self.output or (ctx.judge.output if ctx.judge else _first_scores(module))
        packing = check_pair(module, self.large, output)
        quiet = replace(ctx, observers=())
        large = run_passes(self.large, (*CANONICALIZE, *RAISE), quiet)
        route = Route(output, self.decision, 1.0, self.threshold or 0.0)
        if ctx.calibration is not None:
            route = _Choice(module, large, packing, self, ctx).route()
        elif self.threshold is None:
            ctx.needed_calibration("optc route without --threshold")
        return routed(module, large, route)


class _Choice:
    """Both models' answers to the calibration part, and what comes of thresholds."""

    def __init__(
        self,
        small: Module,
        large: Module,
        packing: Packing | None,
        asked: RouteTo,
        ctx: PassContext,
    ) -> None:
        self.small, self.large, self.packing = small, large, packing
        self.asked, self.ctx = asked, ctx
        self.data = ctx.needed_calibration(asked.name)
        self.judge = ctx.needed_judge(asked.name)
        self.budget = BUDGET if self.judge.budget is None else self.judge.budget
        whole = in_groups(large, packing) if packing else large
        mine, theirs = (self._answers(module) for module in (small, whole))
        calls, rows = mine.shape[:2]
        samples = self.data.batches.samples if rows > 1 or calls == 1 else calls * rows
        self.valid = (np.arange(calls * rows) < samples).reshape(calls, rows)
        if not (np.isfinite(mine[self.valid]).all() and np.isfinite(theirs[self.valid]).all()):
            raise error("E0765", "class scores of calibration samples are not finite numbers")
        labels = self.data.labels()
        self.losses = self._losses(mine, theirs, labels)
        order = np.random.Generator(np.random.PCG64(ctx.seed)).permutation(calls)
        first = round(calls * PROPOSE)
        self.proposing, self.testing = order[:first], order[first:]
        self.temperature = self._temperature(mine, theirs, labels)
        self.scores = scores(asked.decision, mine, self.temperature)

    def _answers(self, module: Module) -> Array:
        value = _returned(module, self.judge.output)
        return np.asarray(self.data.features(module, [value])[value], np.float32)

    def _losses(self, mine: Array, theirs: Array, labels: Array | None) -> NDArray[np.float64]:
        flat = None if labels is None else labels.reshape(-1, *labels.shape[2:])
        width = mine.shape[-1]
        lost = self.judge.losses(mine.reshape(-1, width), theirs.reshape(-1, width), flat)
        return np.where(self.valid, lost.reshape(self.valid.shape), 0.0)

    def _temperature(self, mine: Array, theirs: Array, labels: Array | None) -> float:
        if self.asked.decision is Decision.ENERGY:
            return 1.0  # an energy is compared with a threshold, whatever its unit
        rows = np.zeros_like(self.valid)
        rows[self.proposing] = self.valid[self.proposing]
        fit = labels is not None and labels.dtype.kind in "iub" and labels.ndim == 2
        truth = labels[rows] if fit and labels is not None else None
        return fit_temperature(mine[rows], truth, theirs[rows])

    def _trials(self, calls: NDArray[np.int64]) -> Trials:
        """What leaves by itself: rows where they are packed, else calls."""
        if self.packing:
            valid = self.valid[calls]
            return Trials(self.scores[calls][valid][:, None], self.losses[calls][valid][:, None])
        mean = self.losses[calls].sum(1) / self.valid[calls].sum(1)
        least = np.where(self.valid[calls], self.scores[calls], np.inf).min(1)
        return Trials(least[:, None], mean[:, None])

    def route(self) -> Route:
        """The route, which is also noted for the reports."""
        test, prices = self._trials(self.testing), self._prices()
        given = self.asked.threshold
        if given is not None and not isnan(given):
            policy: Policy | None = Policy((0,), (given,))
            proposed: tuple[Policy, ...] = ()
        else:
            self._check_enough(len(test.scores))
            policy, proposed = choose(
                self._trials(self.proposing), test, prices, 1, self.budget, self.asked.risk
            )
        if policy is None:
            raise error(
                "E0768",
                f"no threshold of {self.asked.decision.value} was confirmed to lose at most "
                f"{100 * self.budget:g} % and to save work",
                help="--accuracy-drop 2%, or --threshold to choose by hand",
            )
        self._record(policy, proposed, test, prices)
        return Route(self.judge.output, self.asked.decision, self.temperature, policy.thresholds[0])

    def _check_enough(self, test: int) -> None:
        least = needed(self.budget, self.asked.risk)
        if test < least:
            raise error(
                "E0764",
                f"a budget of {100 * self.budget:g} % takes {least} samples to confirm, {test} are "
                "left for it",
                help="give --data more samples, or a larger --accuracy-drop",
            )

    def _prices(self) -> Prices:
        """In runs of the large model for all rows; the small one is the head that decides."""
        small, large = self._work(self.small), self._work(self.large)
        groups = self.packing.groups if self.packing else 1
        return Prices((0.0, 1.0), (small / (groups * large or 1.0),))

    def _work(self, module: Module) -> float:
        """Of the kernels that a model becomes: what is quantized multiplies bytes there."""
        quiet = replace(self.ctx, observers=(), diagnostics=[])
        made = run_passes(module, (Integerize(),), quiet)
        return total((n for graph in made.graphs for n in graph.nodes), self.ctx.target)

    def _record(
        self, policy: Policy, proposed: Sequence[Policy], test: Trials, prices: Prices
    ) -> None:
        runs = self._runs(policy.thresholds[0])
        groups = self.packing.groups if self.packing else 1
        price = prices.head[0]
        exits = []
        for done in range(groups):
            name, place = (NAME, "the small model") if not done else (f"packed_{done}", "")
            place = place or f"{done} of {groups} runs of the large model"
            share, cost = float((runs == done).mean()), price + done / groups
            exits.append(
                PlannedExit(name, place, policy.thresholds[0], self.temperature, share, cost)
            )
        share = float((runs == groups).mean())
        self.ctx.exits.append(
            ExitPlan(
                self.asked.decision,
                self.judge.metric,
                self.budget,
                self.asked.risk,
                METHOD,
                len(test.scores),
                "the small model's answers",
                tuple(exits),
                share,
                price + 1.0,
                curve(proposed, policy, test, prices),
            )
        )
        text = (
            f"{NAME} answers {1 - runs.mean() / groups:.0%} of the test samples' work at "
            f"{price:.0%} of the large model's, {self.asked.decision.value} >= "
            f"{policy.thresholds[0]:.4g}"
        )
        self.ctx.remark("N0340", text)

    def _runs(self, threshold: float) -> NDArray[np.int64]:
        """How many runs of the large model each test call takes."""
        hard = (self.scores[self.testing] < threshold) & self.valid[self.testing]
        if self.packing is None:
            return np.asarray(hard.any(1), np.int64)
        rows = self.packing.size
        return np.asarray((hard.sum(1) + rows - 1) // rows, np.int64)


def _first_scores(module: Module) -> str:
    ports = [p for p in module.outputs if p.type.rank == 2 and p.type.dtype.is_float]
    return next((p.name for p in ports), module.outputs[0].name)


def _returned(module: Module, output: str) -> Value:
    """The value that becomes an output."""
    for step in reversed(module.flow.steps):
        if isinstance(step, Run) and output in step.outputs:
            graph = module.graph_of[step.graph]
            return graph.outputs[step.outputs.index(output)]
    raise error("E0767", f"{module.name} has no output {output!r}")
