"""Passes share one budget: what those before `assign-precision` lost is gone for it.

The judge compares every plan with the model that the user gave, not with what the pass was given.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optc.ir.constant import constant, to_floats
from optc.ir.module import Module
from optc.passes.precision.assign_precision import AssignPrecision
from optc.passes.precision.solver import Objective
from optc.passes.quality import Part
from tests.passes.precision.test_assign_precision import net, said, with_data

BUDGET = 0.01


def worse(module: Module, noise: float) -> Module:
    """The module as a lossy pass might leave it: every weight off by a share of its layer's."""
    draw, (graph,) = np.random.default_rng(1), module.graphs
    constants = {}
    for value, item in graph.constants.items():
        array = to_floats(item)
        array = array + noise * array.std() * draw.standard_normal(array.shape)
        constants[value] = constant(array.astype(np.float32))
    return module.with_graphs((replace(graph, constants=constants),))


def stored(module: Module) -> int:
    """Bytes of all constants."""
    return sum(item.type.nbytes for item in module.graphs[0].constants.values())


def test_nothing_is_left_of_a_budget_that_was_broken_before() -> None:
    module = worse(net(), 0.1)
    ctx = with_data(net())
    assert ctx.needed_judge("test").compare(module, Part.CALIBRATION).drop > BUDGET
    assert AssignPrecision().run(module, ctx) is module
    assert all("kept f32: " in said(ctx)[f"layer{n}"] for n in range(4))
    alone = with_data(module)  # judged by itself it has all of the budget
    assert AssignPrecision().run(module, alone) is not module


def test_what_is_left_of_a_budget_is_what_a_plan_may_lose() -> None:
    """What a pass before has spent is paid for with fewer half bytes."""
    smallest = AssignPrecision(objective=Objective.SIZE)
    module, ctx = worse(net(), 0.06), with_data(net())
    judge = ctx.needed_judge("test")
    assert 0.3 * BUDGET < judge.compare(module).drop < BUDGET
    bound = smallest.run(module, ctx)
    assert judge.compare(bound).interval.high <= BUDGET
    assert stored(smallest.run(net(), with_data(net()))) < stored(bound) < stored(module)
