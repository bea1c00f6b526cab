"""What exits may spend: the budget less what passes before lost, and a share of it on request."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

import optc
from optc.ir.diagnostics import OptcError
from optc.ir.module import Module
from optc.passes.early_exit.thresholds import Policy, Prices, Trials
from optc.passes.quality import Part
from tests.passes.early_exit.networks import captured, digits
from tests.passes.early_exit.test_insert_exits import BUDGET, context, inserted

METRIC = "accuracy@output.2"


def worse(pixels: int) -> Module:
    """The net with its own heads, blind for some of the pixels: what a lossy pass might make."""
    net, data = digits()
    blind = deepcopy(net)
    with torch.no_grad():
        blind.blocks[0].weight[:, 26 : 26 + pixels] = 0
    return optc.capture(blind, (torch.from_numpy(data["x"][:1]),))


def test_a_budget_that_passes_before_have_spent_is_not_spent_again() -> None:
    module, original = worse(12), captured(own=True)
    ctx = context(original, METRIC)
    lost = ctx.needed_judge("test").compare(module, Part.CALIBRATION)
    assert lost.drop > BUDGET
    assert inserted(module, ctx) is module
    assert [item.code for item in ctx.diagnostics].count("N0342") == 1
    alone = context(module, METRIC)  # judged by itself it has all of the budget
    assert inserted(module, alone).flow.exits


def test_a_share_of_the_budget_is_what_exits_hold() -> None:
    module = captured(own=True)
    plans = []
    for share in (1.0, 0.5):
        ctx = context(module, METRIC, 0.2)
        inserted(module, ctx, share=share)
        plans.append(ctx.exits[0])
    whole, half = plans
    assert (whole.budget, half.budget) == (0.2, 0.1)
    assert half.cost >= whole.cost
    with pytest.raises(OptcError) as found:
        inserted(module, context(module, METRIC), share=0.0)
    assert found.value.diagnostics[0].code == "E0760"


def test_calls_that_go_to_the_end_lose_what_was_lost_before() -> None:
    end = np.array([0.0, 1.0, 1.0])
    trials = Trials(np.array([[0.9], [0.9], [0.1]]), np.array([[0.0], [-1.0], [0.5]]), end)
    cost, losses = Policy((0,), (0.5,)).outcome(trials, Prices((0.25, 1.0), (0.0,)))
    assert cost.tolist() == [0.25, 0.25, 1.0]
    assert losses.tolist() == [0.0, -1.0, 1.0]
