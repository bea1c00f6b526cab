"""Programs of modules with exits leave, compute and remember what the reference does."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings

from optc.backends.program import ExitIf, RunSegment, exits_of, steps_of
from optc.backends.reference.evaluate import run
from optc.passes.base import PassContext
from optc.passes.fusion.fuse import Fuse
from tests.backends.interpreted import TARGET, Interpreted
from tests.strategies.exiting import Exiting, exiting


@settings(max_examples=60)
@given(exiting())
def test_a_program_leaves_where_the_reference_does(case: Exiting) -> None:
    module = Fuse().run(case.module, PassContext(TARGET))
    states: dict[str, torch.Tensor] = {}
    program = Interpreted(module)
    for x in case.calls:
        wanted = run(case.module, {"x": x}, states)
        states = dict(wanted.states)
        for port, array in zip(case.module.outputs, program([x]), strict=True):
            assert torch.equal(array, wanted.outputs[port.name])
        for name, content in states.items():
            found = program.state(name).view(np.float32)
            assert np.array_equal(found, content.contiguous().numpy().reshape(-1)), name


@settings(max_examples=25)
@given(exiting())
def test_exits_are_named_and_counted_by_a_segment_of_their_own(case: Exiting) -> None:
    module = Fuse().run(case.module, PassContext(TARGET))
    program = Interpreted(module).program
    names = [step.condition for step in module.flow.exits]
    assert [name for name, _ in exits_of(program)] == names
    top = {step.name for step in program.flow if isinstance(step, RunSegment)}
    for name, segment in exits_of(program):
        assert program.segments[segment].name == f"leave {name}"
        assert program.segments[segment].name not in top
    assert sum(isinstance(step, ExitIf) for step in steps_of(program.flow)) == len(names)
    parameters = {slot.name for slot in program.states if slot.parameter}
    assert parameters == {state.name for state in module.parameters}
