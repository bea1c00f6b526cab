"""All passes of a compilation together keep the formula on random graphs, for any target."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optc.backends.reference.evaluate import run
from optc.driver import lower_module
from optc.ir.module import module_of
from optc.ir.targets.find import find_target
from optc.ir.text import print_module
from tests.strategies.graphs import Case, graphs, image_graphs

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("target", ["x86-64-v4", "cortex-a76", "sm_80"])
@FEW
@given(case=st.one_of(graphs(), image_graphs()))
def test_what_kernels_are_built_from_is_what_was_captured(target: str, case: Case) -> None:
    before = module_of(case.graph)
    inputs = dict(zip((port.name for port in before.inputs), case.inputs(), strict=True))
    after = lower_module(before, find_target(target))
    wanted, results = run(before, inputs).outputs, run(after, inputs).outputs
    assert results.keys() == wanted.keys()
    for name, result in results.items():
        tolerance = {2: 0.05, 4: 1e-4, 8: 1e-9}[result.element_size()]
        error = float((result.double() - wanted[name].double()).abs().max())
        scale = max(1.0, float(wanted[name].double().abs().max()))
        assert error <= tolerance * scale, f"{print_module(before)}\n{print_module(after)}"
