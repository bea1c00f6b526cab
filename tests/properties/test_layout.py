"""The layout pass keeps the formula on random graphs of images, cubes among them."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from optc.backends.reference.evaluate import run
from optc.ir.module import module_of
from optc.ir.ops import Conv
from optc.ir.text import print_module
from optc.passes.base import run_passes
from optc.passes.layout.assign_layout import AssignLayout
from optc.passes.standard import CANONICALIZE
from tests.passes.oracle import context
from tests.strategies.graphs import Case, image_graphs
from tests.strategies.instances import sample


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=image_graphs())
def test_channels_last_keeps_the_formula(case: Case) -> None:
    before = module_of(case.graph)
    inputs = dict(zip((port.name for port in before.inputs), case.inputs(), strict=True))
    wanted = run(before, inputs).outputs
    assigned = run_passes(before, [AssignLayout()], context())
    assert run_passes(assigned, [AssignLayout()], context()) is assigned
    for after in (assigned, run_passes(assigned, CANONICALIZE, context())):
        for name, result in run(after, inputs).outputs.items():
            error = float((result - wanted[name]).abs().max())
            scale = max(1.0, float(wanted[name].abs().max()))
            assert error <= 1e-9 * scale, f"{print_module(before)}\n{print_module(after)}"


def test_the_graphs_reach_what_the_pass_changes() -> None:
    cases = sample(image_graphs(), 100)
    convolutions = [n for case in cases for n in case.graph.nodes if isinstance(n.op, Conv)]
    assert sum(not node.op.channels_last for node in convolutions) >= 20
    assert any(len(set(node.inputs[0].shape[1:])) == 1 for node in convolutions)
