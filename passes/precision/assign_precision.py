"""Mixed precision: for each layer the numbers that pay, within the user's budget.

Sensitivities measured layer by layer and an integer program over them: MixDQ (Zhao et al. 2024);
what it may cost is said by the user's own metric and not by the program.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from optc.ir.diagnostics import error
from optc.ir.module import Module
from optc.passes.base import Effect, Latency, Pass, PassContext
from optc.passes.lineage import Lineage
from optc.passes.precision.choices import Choice, Layer, layers_of, refused
from optc.passes.precision.explain import Account, explained
from optc.passes.precision.mixture import Mixture
from optc.passes.precision.observe import Observer
from optc.passes.precision.prices import (
    Clocked,
    Price,
    Prices,
    Source,
    clocked,
    points_of,
    price,
    undominated,
)
from optc.passes.precision.quantization import Ranging
from optc.passes.precision.search import Search
from optc.passes.precision.sensitivity import Listener, Sensitivity, watched
from optc.passes.precision.solver import Objective
from optc.passes.quality import Part

BUDGET = 0.01  # where the user names none
HELP = "--target host, or without prices=measured"


@dataclass(frozen=True)
class AssignPrecision(Pass):
    """Choose for each layer f32, bf16, int8, or small weights, within `--accuracy-drop`.

    What a choice gains is the target's modelled latency, its kernel's time on this machine with
    `prices=measured`, or size with `objective=size`; what it loses is measured at the output on
    `probes` batches of the calibration part, the layer alone changed (`sensitivity=metric`: by the
    user's metric). The plan is the best one that holds the budget on `calls` batches; then it is
    checked on held-out data, and noisy layers go back until it holds. Without --accuracy-drop the
    budget is one point; what passes before have lost is gone from it. `keep_float` names layers, or
    modules of the model, that stay as they are; `observer` is that of `quantize`.
    """

    name = "assign-precision"
    effect = Effect.LOSSY
    objective: Objective = Objective.LATENCY
    prices: Source = Source.MODELLED
    sensitivity: Sensitivity = Sensitivity.SQNR
    observer: Observer = Observer.MSE
    keep_float: tuple[str, ...] = ()
    probes: int = 8
    calls: int = 256

    def __post_init__(self) -> None:
        for name in ("probes", "calls"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")

    @property
    def saves_bytes(self) -> bool:
        """With `objective=size`."""
        return self.objective is Objective.SIZE

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module in mixed precision; the same where nothing pays or nothing holds the budget.

        Remarks give every layer's reason. Raises E0134 without data.
        """
        layers: Sequence[Layer] = list(layers_of(module, ctx.target, self.keep_float))
        if not any(len(layer.offers) > 1 for layer in layers):
            return module
        calibration = ctx.needed_calibration(self.name)
        judge = ctx.needed_judge(self.name)
        if ctx.latency is None:
            raise error("E0134", f"{self.name} needs a model of the target's latency")
        mixture = Mixture(module, ctx.target.activations, Ranging(self.observer), calibration)
        layers = mixture.settled(layers)
        times = self._clocked(layers, ctx)
        prices = self._prices(layers, mixture, ctx, ctx.latency, times)

        def under(plan: Sequence[Choice], lineage: Lineage | None = None) -> Module:
            chosen = zip(layers, plan, strict=True)
            return mixture.module({n: c for n, c in chosen if c is not Choice.FLOAT}, lineage)

        search = Search(
            prices,
            self.objective,
            judge,
            BUDGET if judge.budget is None else judge.budget,
            under,
            spread(calibration.batches.calls, self.calls),
        )
        wanted = search.best()
        plan, difference = search.checked(wanted)
        source = Source.MEASURED if times else Source.MODELLED
        account = Account(
            layers, prices, wanted, plan, difference, search.budget, self.objective, source
        )
        explained(account, refused(module, layers), ctx)
        return under(plan, ctx.lineage)

    def _clocked(self, layers: Sequence[Layer], ctx: PassContext) -> Clocked:
        """The times of all layers' forms where they are wanted and the machine is at hand."""
        if self.prices is Source.MODELLED:
            return {}
        found: Clocked | str = "there is no way to run kernels"
        if ctx.stopwatch is not None:
            found = clocked(layers, ctx.stopwatch, ctx.target.activations)
        if isinstance(found, str):
            ctx.warn("W0317", f"{self}: gains are modelled, not measured: {found}", help=HELP)
            return {}
        return found

    def _prices(
        self,
        layers: Sequence[Layer],
        mixture: Mixture,
        ctx: PassContext,
        latency: Latency,
        times: Clocked,
    ) -> Prices:
        """Every choice of every layer, what it loses included."""
        calibration, judge = ctx.needed_calibration(self.name), ctx.needed_judge(self.name)
        listener = Listener(mixture.source, judge.output, calibration, self.probes)
        by_metric = self.sensitivity is Sensitivity.METRIC
        by_metric = by_metric or not watched(mixture.source, judge.output)
        calls = spread(calibration.batches.calls, self.calls)

        def noise(layer: Layer, choice: Choice) -> float:
            if choice is Choice.FLOAT:
                return 0.0
            alone = mixture.module({layer: choice})
            if by_metric:
                return max(0.0, judge.compare(alone, Part.CALIBRATION, calls).drop)
            return listener.noise(alone)

        def priced(layer: Layer) -> dict[Choice, Price]:
            found = {c: price(layer, c, ctx.target, latency, times) for c in layer.offers}
            kept = list(found) if self.objective is Objective.SIZE else undominated(found)
            heard = {choice: replace(found[choice], noise=noise(layer, choice)) for choice in kept}
            return {choice: item for choice, item in heard.items() if math.isfinite(item.noise)}

        points = points_of(layers, mixture.placements(layers), latency)
        return Prices(tuple(map(priced, layers)), points)


def spread(calls: int, most: int) -> frozenset[int] | None:
    """At most `most` of so many calls, evenly; None: all."""
    if calls <= most:
        return None
    return frozenset(np.linspace(0, calls - 1, most).round().astype(int).tolist())
