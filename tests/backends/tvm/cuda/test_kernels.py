"""Every op, and whole random graphs, as GPU kernels run by the emulator, against the reference.

Threads start in both orders, so that a result that leans on their order differs in one of them.
"""

from __future__ import annotations

import pytest
import torch

from optc.ir.ops import Op
from optc.ir.text import print_graph
from tests.backends.cuda_emulator import Order
from tests.backends.tvm.bodies import body_of, check_against_reference
from tests.backends.tvm.cuda.launched import Launched
from tests.contracts.test_ops import GENERATED, explained, meaning, tolerance
from tests.strategies.graphs import graphs
from tests.strategies.instances import instances, sample

EXAMPLES = 4
SHARES = 3
CASES = 36


@pytest.mark.parametrize("kind", GENERATED, ids=lambda kind: kind.__name__)
def test_every_op_agrees_with_the_reference(kind: type[Op]) -> None:
    drawn = sample(instances(kind), EXAMPLES)
    kernels = Launched([body_of(item.op, item.types) for item in drawn])
    for number, instance in enumerate(drawn):
        wanted = meaning(instance)
        for order in Order:
            found = kernels(number, instance.inputs(), order)
            for ours, right in zip(found, wanted, strict=True):
                torch.testing.assert_close(
                    ours,
                    right,
                    equal_nan=True,
                    msg=explained(instance),
                    **tolerance(instance, right),
                )


@pytest.mark.parametrize("share", range(SHARES))
def test_random_graphs_agree_with_the_reference(share: int) -> None:
    cases = sample(graphs(), CASES)[share::SHARES]
    kernels = Launched([case.graph for case in cases])
    for number, case in enumerate(cases):
        inputs = case.inputs()
        for order in Order:
            try:
                check_against_reference(case.graph, inputs, kernels(number, inputs, order))
            except AssertionError as problem:
                raise AssertionError(f"{print_graph(case.graph)}\n{problem}") from None
