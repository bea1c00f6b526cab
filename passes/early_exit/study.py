"""A study of places to exit: heads, temperatures and thresholds from calibration samples.

The samples of the calibration part are dealt out once more: to fit heads (none, where the model has
its own), to choose temperatures and propose policies, and to test policies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.ir.builder import Builder
from optc.ir.diagnostics import error
from optc.ir.graph import Graph, Value
from optc.ir.module import Module
from optc.ir.names import value_names
from optc.passes.base import PassContext
from optc.passes.early_exit.bounds import METHOD, needed
from optc.passes.early_exit.chain import Boundary, cone
from optc.passes.early_exit.decision import Decision, add_decision, scores
from optc.passes.early_exit.heads import Head, fit_head, fit_temperature, pooled, poolings
from optc.passes.early_exit.plan import ExitPlan, PlannedExit, curve, shares
from optc.passes.early_exit.price import total
from optc.passes.early_exit.stages import THRESHOLD, Exit
from optc.passes.early_exit.thresholds import Policy, Prices, Trials, choose, confirmed
from optc.passes.quality import Part

Array = NDArray[Any]
BUDGET = 0.01  # without --accuracy-drop
OWN = (0.0, 0.35)  # up to which share calls fit heads, and propose; the rest test
FITTED = (0.4, 0.6)


@dataclass(frozen=True, slots=True)
class Choice:
    """A confirmed policy, and what else was proposed."""

    policy: Policy
    proposed: tuple[Policy, ...]


class Study:
    """All that is known of the places; `graph` has every candidate head in it.

    `risk` is how often a policy may be confirmed that breaks `share` of the budget.
    """

    def __init__(
        self,
        module: Module,
        graph: Graph,
        result: Value,
        places: Sequence[Boundary],
        own: bool,
        decision: Decision,
        ctx: PassContext,
        risk: float,
        share: float = 1.0,
    ) -> None:
        self.module, self.ctx, self.decision, self.own = module, ctx, decision, own
        self.risk = risk
        self.judge = ctx.needed_judge("insert-exits")
        self.data = ctx.needed_calibration("insert-exits")
        self.result, self.places = result, tuple(places)
        self.budget = share * (self.judge.budget if self.judge.budget is not None else BUDGET)
        (run,) = module.flow.runs
        values = dict(zip(run.outputs, graph.outputs, strict=True))
        self.returned = {
            name: value
            for name, value in values.items()
            if not own or value is result or value.type != result.type
        }
        calls = self.data.batches.calls
        order = np.random.Generator(np.random.PCG64(ctx.seed)).permutation(calls)
        first, second = (round(calls * share) for share in (OWN if own else FITTED))
        self.parts = order[:first], order[first:second], order[second:]
        self._check_enough(risk)
        self.labels = self.data.labels()
        self.valid = self._valid(calls)
        if own:
            self.graph, self.logits = graph, [place.value for place in self.places]
            found = self.data.features(module, [*self.logits, result])
            self.answers = [np.asarray(found[value], np.float32) for value in self.logits]
            self.original = np.asarray(found[result], np.float32)
        else:
            self._fit(graph)
        self._check_finite()
        _, proposing, _ = self.parts
        rows = self._rows(proposing)
        self.temperatures = [
            1.0
            if decision is Decision.ENERGY
            else fit_temperature(self._flat(answers, rows), *self._truth(rows))
            for answers in self.answers
        ]
        self.prices = self._prices()
        self.fit = self._trials(proposing, self.original)
        # The budget is counted from what the user gave: passes before may have spent some of it.
        given = np.asarray(self.judge.answers(Part.CALIBRATION), np.float32)
        self.test = self._trials(self.parts[2], given.reshape(self.original.shape))

    def _check_enough(self, risk: float) -> None:
        """Raise E0764 where even perfect heads could not be confirmed with so few samples: now,
        before anything is run.
        """
        least, test = needed(self.budget, risk), len(self.parts[2])
        if test >= least:
            return
        share = test / max(1, sum(map(len, self.parts)))
        rows = self.result.shape[0]
        learnt = int(np.ceil(least / max(share, 0.1) * rows))
        samples = int(np.ceil(learnt / 0.3 / 10)) * 10  # where three of ten are learnt from
        raise error(
            "E0764",
            f"a budget of {100 * self.budget:g} % takes {least} calls to confirm, "
            f"{test} are left for it",
            help=f"give --data at least {samples} samples, or --calibration-data {learnt}, or a "
            "larger --accuracy-drop",
        )

    def _valid(self, calls: int) -> NDArray[np.bool_]:
        """Which rows of the calls are samples, and no filling: [calls, rows]."""
        rows = self.result.shape[0]
        count = self.data.batches.samples if rows > 1 or calls == 1 else calls * rows
        return (np.arange(calls * rows) < count).reshape(calls, rows)

    def _rows(self, calls: NDArray[np.int64]) -> NDArray[np.bool_]:
        chosen = np.zeros_like(self.valid)
        chosen[calls] = self.valid[calls]
        return chosen

    def _flat(self, array: Array, rows: NDArray[np.bool_]) -> Array:
        """The samples in `rows` of an array [calls, rows, ...]."""
        found: Array = array[rows]
        return found

    def _truth(self, rows: NDArray[np.bool_]) -> tuple[Array | None, Array]:
        """Labels, where they are one class number a sample, and the whole model's scores."""
        labels = None if self.labels is None else self.labels.reshape(*self.valid.shape, -1)
        if labels is None or labels.shape[-1] != 1 or labels.dtype.kind not in "iub":
            return None, self._flat(self.original, rows)
        return self._flat(labels[..., 0], rows), self._flat(self.original, rows)

    def _fit(self, graph: Graph) -> None:
        """Fit a head to every place, the pooling that answers best on samples it has not seen."""
        builder = _continued(graph)
        ways = [(p, way) for p in self.places for way in poolings(p.value)]
        features = [pooled(builder, place.value, way) for place, way in ways]
        widened = builder.build(graph.outputs)
        seen = self.data.features(self.module.with_graphs((widened,)), [*features, self.result])
        self.original = np.asarray(seen[self.result], np.float32)
        fitting, proposing, _ = (self._rows(calls) for calls in self.parts)
        self.logits, self.answers, heads = [], [], []
        for place in self.places:
            best: tuple[float, Head, Value] | None = None
            for (at, _), value in zip(ways, features, strict=True):
                if at is not place:
                    continue
                head, right = self._fitted(seen[value], fitting, proposing)
                if best is None or right > best[0]:
                    best = right, head, value
            assert best is not None, "a place without a pooling is no place"
            heads.append(best[1:])
            self.answers.append(best[1](np.asarray(seen[best[2]], np.float32)))
        self.logits = [head.add(builder, value, self.result.type.dtype) for head, value in heads]
        self.graph = builder.build(graph.outputs)

    def _fitted(
        self, features: Array, fitting: NDArray[np.bool_], proposing: NDArray[np.bool_]
    ) -> tuple[Head, float]:
        x = np.asarray(features, np.float32)
        try:
            head = fit_head(self._flat(x, fitting), *self._truth(fitting))
        except ValueError as problem:
            raise self._not_finite() from problem
        losses = self._losses(head(self._flat(x, proposing)), self.original, proposing)
        return head, -float(losses.mean())

    def _losses(
        self, answers: Array, against: Array, rows: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        labels = None
        if self.labels is not None:
            labels = self._flat(
                self.labels.reshape(*self.valid.shape, *self.labels.shape[2:]), rows
            )
        return self.judge.losses(answers, self._flat(against, rows), labels)

    def _check_finite(self) -> None:
        arrays = (self.original, *self.answers)
        if not all(np.isfinite(array[self.valid]).all() for array in arrays):
            raise self._not_finite()

    def _not_finite(self) -> Exception:
        return error(
            "E0765",
            "class scores or features of calibration samples are not finite numbers",
            help="optc eval model.pt2 --data ... shows what the model gives",
        )

    def _prices(self) -> Prices:
        others = [v for name, v in self.returned.items() if name != self.judge.output]
        target = self.ctx.target
        until, head = [], []
        for logits, place in zip(self.logits, self.places, strict=True):
            before = cone(self.graph, (place.value, *others))
            until.append(total(before, target))
            own = cone(self.graph, (logits,)) - before
            head.append(total([*own, *self._deciding(logits)], target))
        whole = cone(self.graph, tuple(self.returned.values()))
        return Prices((*until, total(whole, target)), tuple(head))

    def _deciding(self, logits: Value):  # type: ignore[no-untyped-def]
        builder = Builder("decision")
        x, threshold = builder.input(logits.type), builder.input(THRESHOLD)
        add_decision(builder, self.decision, x, threshold, 2.0)
        return builder.nodes

    def _trials(self, calls: NDArray[np.int64], against: Array) -> Trials:
        """The least score and the mean loss of calls at every place, and their loss at the end."""
        columns = [
            scores(self.decision, answers, temperature).min(1)[calls]
            for answers, temperature in zip(self.answers, self.temperatures, strict=True)
        ]
        losses = [self._mean_losses(answers, against)[calls] for answers in self.answers]
        end = self._mean_losses(self.original, against)[calls]
        return Trials(np.stack(columns, 1), np.stack(losses, 1), end)

    def _mean_losses(self, answers: Array, against: Array) -> NDArray[np.float64]:
        """What each call's samples lose on average."""
        everything = np.ones_like(self.valid)
        lost = self._losses(answers.reshape(-1, answers.shape[-1]), against, everything)
        lost = np.where(self.valid, lost.reshape(self.valid.shape), 0.0)
        mean: NDArray[np.float64] = lost.sum(1) / self.valid.sum(1)
        return mean

    def choose(self, most: int) -> Choice | None:
        """The cheapest policy that is confirmed; None and a remark where none is."""
        policy, proposed = choose(self.fit, self.test, self.prices, most, self.budget, self.risk)
        why = "others save more" if policy is not None else self._declined(proposed)
        names = value_names(self.graph)
        for index, place in enumerate(self.places):
            loc = self.graph.producer[place.value].loc
            if policy is None or index not in policy.exits:
                saved = 1 - self.prices.until[index] / self.prices.until[-1]
                text = f"no exit behind {names[place.value]}, which would save {saved:.0%}"
                self.ctx.remark("N0341", f"{text}: {why}", loc)
        if policy is None:
            return None
        self._record(policy, proposed, self.test)
        return Choice(policy, proposed)

    def _declined(self, proposed: Sequence[Policy]) -> str:
        """Say why no policy was chosen; in short what that means for a place."""
        held = confirmed(proposed, self.test, self.prices, self.budget, self.risk)
        least = min((cost for cost, _ in held), default=None)
        if least is not None:
            share = least / self.prices.until[-1]
            text = (
                f"no exits: with heads and decisions a call takes {share:.1%} of the model's work"
            )
            self.ctx.remark("N0343", f"{text} where {self.budget:.2%} holds")
            return "its head takes what it saves"
        if proposed:
            lost = min(p.outcome(self.test, self.prices)[1].mean() for p in proposed)
            text = f"no exits: the most careful of {len(proposed)} policies loses {lost:.2%}"
        else:
            text = "no exits: no thresholds lose little enough where they were chosen"
        self.ctx.remark("N0342", f"{text}, and {self.budget:.2%} could not be confirmed")
        return "the budget could not be held"

    def _record(self, policy: Policy, proposed: Sequence[Policy], test: Trials) -> None:
        names = value_names(self.graph)
        left, paths, whole = (
            shares(policy, test),
            self.prices.paths(policy.exits),
            self.prices.until,
        )
        exits = []
        for place, index in enumerate(policy.exits):
            value = self.places[index].value
            found = PlannedExit(
                f"exit_{place}",
                names[value],
                policy.thresholds[place],
                self.temperatures[index],
                left[place],
                paths[place] / whole[-1],
            )
            exits.append(found)
            text = (
                f"{found.name} behind {names[value]}: {found.share:.0%} of test calls leave at "
                f"{found.cost:.0%} of the work, {self.decision.value} >= {found.threshold:.4g}"
            )
            self.ctx.remark("N0340", text, self.graph.producer[value].loc)
        plan = ExitPlan(
            self.decision,
            self.judge.metric,
            self.budget,
            self.risk,
            METHOD,
            len(test.scores),
            "the model's own" if self.own else "fitted to calibration samples",
            tuple(exits),
            left[-1],
            paths[-1] / whole[-1],
            curve(proposed, policy, test, self.prices),
            0.0 if test.end is None else float(test.end.mean()),
        )
        self.ctx.exits.append(plan)

    def exits(self, choice: Choice) -> list[Exit]:
        """What to cut the graph at."""
        return [
            Exit(
                f"exit_{place}",
                self.logits[index],
                tuple(
                    self.logits[index] if name == self.judge.output else value
                    for name, value in self._ordered().items()
                ),
                self.decision,
                self.temperatures[index],
                choice.policy.thresholds[place],
            )
            for place, index in enumerate(choice.policy.exits)
        ]

    def _ordered(self) -> Mapping[str, Value]:
        """What is returned, in the order of the module's outputs."""
        ports = [port.name for port in self.module.outputs if port.name in self.returned]
        return {name: self.returned[name] for name in ports}


def _continued(graph: Graph) -> Builder:
    """A builder that holds the graph."""
    builder = Builder(graph.name)
    builder.inputs.extend(graph.inputs)
    builder.constants.update(graph.constants)
    for node in graph.nodes:
        builder.append(node)
    return builder
