"""The integer program against every plan there is, on random prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from optc.ir.dtype import DType
from optc.passes.precision.choices import Choice
from optc.passes.precision.prices import Point, Price, Prices, undominated
from optc.passes.precision.solver import Objective, merit, solved

FORMS = (DType.F32, DType.BF16, DType.I8)
AMOUNT = st.integers(0, 40)


@st.composite
def tables(draw: st.DrawFn) -> Prices:
    """Up to six layers of up to four choices, and values between them that layers share."""
    layers = []
    for _ in range(draw(st.integers(1, 6))):
        kinds = list(Choice)[1:]
        others = draw(st.lists(st.sampled_from(kinds), max_size=3, unique=True))
        prices = {Choice.FLOAT: Price(1e-6 * (1 + draw(AMOUNT)), 1 + draw(AMOUNT))}
        for choice in others:
            noise = 10.0 ** -draw(st.integers(0, 6)) * (1 + draw(AMOUNT))
            prices[choice] = Price(1e-6 * draw(AMOUNT), draw(AMOUNT), noise)
        layers.append(prices)
    places = st.sets(st.integers(0, len(layers) - 1), min_size=1)
    points = [
        Point(
            tuple(sorted(draw(places))),
            {form: 1e-6 * draw(AMOUNT) for form in FORMS},
            frozenset({DType.F32} if draw(st.booleans()) else ()),
        )
        for _ in range(draw(st.integers(0, 3)))
    ]
    return Prices(tuple(layers), tuple(points))


@settings(max_examples=60, deadline=None)
@given(
    prices=tables(),
    limit=st.sampled_from((0.0, 1e-5, 1e-3, 0.1, 3.0, 1e3)),
    objective=st.sampled_from(Objective),
)
def test_no_plan_within_the_limit_is_better(
    prices: Prices, limit: float, objective: Objective
) -> None:
    found = solved(prices, limit, objective)
    assert prices.noise(found) <= limit * (1 + 1e-6)
    best = min(
        merit(prices, plan, objective)
        for plan in product(*prices.layers)
        if prices.noise(plan) <= limit
    )
    assert merit(prices, found, objective) <= best + 2e-6 * abs(best) + 1e-9
    assert solved(prices, limit, objective) == found


@settings(max_examples=60, deadline=None)
@given(prices=tables(), limit=st.sampled_from((0.0, 1e-5, 1e-3, 0.1, 3.0, 1e3)))
def test_nothing_faster_is_lost_with_choices_that_cannot_win(prices: Prices, limit: float) -> None:
    whole = Prices(tuple(map(_coarser_is_noisier, prices.layers)), prices.points)
    kept = tuple({c: layer[c] for c in undominated(layer)} for layer in whole.layers)
    assert all(Choice.FLOAT in layer for layer in kept)
    assert _fastest(replace(whole, layers=kept), limit) == _fastest(whole, limit)


def _coarser_is_noisier(layer: Mapping[Choice, Price]) -> dict[Choice, Price]:
    """Noise as it is: coarser weights beside equal activations add some."""
    return {
        choice: replace(
            price,
            noise=sum(
                other.noise
                for finer, other in layer.items()
                if finer.activations is choice.activations
                and finer.weights.bits >= choice.weights.bits
            ),
        )
        for choice, price in layer.items()
    }


def _fastest(prices: Prices, limit: float) -> tuple[float, float]:
    """Seconds, then noise, of the best of all plans within the limit."""
    plans = [plan for plan in product(*prices.layers) if prices.noise(plan) <= limit]
    seconds = min(map(prices.seconds, plans))
    equal = [plan for plan in plans if prices.seconds(plan) <= seconds + 1e-12]
    return round(seconds, 12), min(map(prices.noise, equal))


def test_what_is_not_faster_is_left_alone() -> None:
    same = {Choice.FLOAT: Price(1e-6, 100), Choice.INT8: Price(1e-6, 25, 1e-6)}
    faster = {Choice.FLOAT: Price(1e-6, 100), Choice.INT8: Price(5e-7, 25, 1e-6)}
    found = solved(Prices((same, faster)), 1.0, Objective.LATENCY)
    assert found == (Choice.FLOAT, Choice.INT8)
    assert solved(Prices((same, faster)), 1.0, Objective.SIZE) == (Choice.INT8, Choice.INT8)


def test_a_way_there_that_costs_more_than_it_saves_is_not_taken() -> None:
    """Alone, each layer would lose; both together share the way and win."""
    layer = {Choice.FLOAT: Price(10e-6, 4), Choice.INT8: Price(7e-6, 1, 1e-9)}
    forms = {DType.F32: 0.0, DType.BF16: 0.0, DType.I8: 4e-6}
    floats = frozenset({DType.F32})
    apart = Prices((layer, layer), (Point((0,), forms, floats), Point((1,), forms, floats)))
    shared = Prices((layer, layer), (Point((0, 1), forms, floats),))
    assert solved(apart, 1.0, Objective.LATENCY) == (Choice.FLOAT,) * 2
    assert solved(shared, 1.0, Objective.LATENCY) == (Choice.INT8,) * 2
