"""Why each layer got its precision, as people read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optc.ir.graph import Node
from optc.passes.base import PassContext
from optc.passes.precision.choices import Choice, Layer
from optc.passes.precision.prices import Prices, Source
from optc.passes.precision.sensitivity import decibels
from optc.passes.precision.solver import Objective
from optc.passes.quality import Difference

REFUSED, CHOSEN, NOTHING = "N0330", "N0333", "W0316"


@dataclass(frozen=True, slots=True)
class Account:
    """What was decided, by what numbers."""

    layers: Sequence[Layer]
    prices: Prices
    wanted: Sequence[Choice]  # before the held-out check
    plan: Sequence[Choice]
    difference: Difference | None  # on held-out data; None where nothing is left of the plan
    budget: float
    objective: Objective
    source: Source = Source.MODELLED  # of seconds


def explained(account: Account, refusals: Mapping[Node, str], ctx: PassContext) -> None:
    """A remark for every layer, one for the whole, and a warning where nothing was gained."""
    for place, layer in enumerate(account.layers):
        ctx.remark(CHOSEN, f"{layer.name} {reason(account, place)}", layer.loc)
    for node, why in refusals.items():
        hint = node.outputs[0].hint
        ctx.remark(REFUSED, f"{node.op.name} {hint} stays in floats: {why}", node.loc)
    ctx.remark(CHOSEN, summary(account))
    if all(choice is Choice.FLOAT for choice in account.wanted):
        return
    if account.difference is None:
        ctx.warn(
            NOTHING,
            f"no plan holds the budget of {100 * account.budget:g} % on held-out data: all layers "
            "stay in f32",
            help="a larger --accuracy-drop, or --data with more samples",
        )


def reason(account: Account, place: int) -> str:
    """Why the layer at `place` is what it is."""
    layer, chosen = account.layers[place], account.plan[place]
    prices = account.prices.layers[place]
    before = account.wanted[place]
    if before is not chosen:
        noise = decibels(prices[before].noise)
        why = f"{noise:.0f} dB in {before.value}, the held-out check failed"
        return f"reverted to {chosen.value}: {why}"
    if chosen is not Choice.FLOAT:
        gain = -account.prices.switched(account.plan, place, Choice.FLOAT)
        saved = prices[Choice.FLOAT].nbytes - prices[chosen].nbytes
        noise = decibels(prices[chosen].noise)
        how = " measured" if account.source is Source.MEASURED else ""
        time = f"{1e6 * gain:+.3g} us{how}"
        return f"{chosen.value}: {noise:.0f} dB, {time}, {-saved / 1e3:+.3g} kB"
    others = [choice for choice in prices if choice is not Choice.FLOAT]
    if not others:
        small = "smaller weights alone are no faster" if len(layer.offers) > 1 else None
        said = [text for text in (layer.reason, small) if text]
        return f"kept f32: {'; '.join(said) or 'there is no other form of it'}"
    slower = {choice: account.prices.switched(account.plan, place, choice) for choice in others}
    best = min(others, key=lambda choice: slower[choice])
    if account.objective is Objective.LATENCY and slower[best] >= 0:
        share = slower[best] / max(prices[Choice.FLOAT].seconds, 1e-30)
        pace = f"{100 * share:.1f} % slower" if share >= 5e-4 else "no faster"
        return f"kept f32: would be {pace} in {best.value}"
    quiet = min(others, key=lambda choice: prices[choice].noise)
    noise = decibels(prices[quiet].noise)
    return f"kept f32: {noise:.0f} dB in {quiet.value} is more noise than the budget leaves"


def summary(account: Account) -> str:
    """How many layers got what, what that is worth, and what it loses."""
    plan, prices = tuple(account.plan), account.prices
    floats = [Choice.FLOAT] * len(plan)
    counts = ", ".join(f"{plan.count(c)} {c.value}" for c in Choice if c in plan)
    seconds = prices.seconds(plan) / max(prices.seconds(floats), 1e-30)
    nbytes = prices.nbytes(plan) / max(prices.nbytes(floats), 1)
    lost = "" if account.difference is None else f", held-out {account.difference}"
    time = f"{seconds:.2f} times the {account.source.value} time"
    return f"{counts}: {time}, {nbytes:.2f} the weights{lost}"
