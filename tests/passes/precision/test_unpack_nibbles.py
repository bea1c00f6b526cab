"""Half bytes are left to the kernels that take them, and taken apart for all others."""

from __future__ import annotations

import pytest

from optc.autotune.task import tasks_of
from optc.driver import Options, lower_module
from optc.ir.dtype import DType
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.passes.pipeline import Pipeline

LAYERS = """graph @main(%x: 1x64xf32) {
  %w = constant {seed=1} : 96x64xf32
  %v = constant {seed=2} : 32x96xf32
  %a = linear(%x, %w) : 1x96xf32
  %g = gelu(%a) : 1x96xf32
  %y = linear(%g, %v) : 1x32xf32
  return %y
}
"""


@pytest.mark.parametrize(("group", "taken"), [(32, True), (4, False)])
def test_weights_of_layers_go_to_the_template(group: int, taken: bool) -> None:
    target = find_target("x86-64-v3")
    steps = Pipeline.parse(f"quantize-weights{{bits=4,group={group}}}")
    module = lower_module(parse(LAYERS), target, Options(pipeline=steps))
    (graph,) = module.graphs
    dtypes = {item.type.dtype for item in graph.constants.values()}
    assert (DType.I4 in dtypes) is taken
    templates = {task.template.split("/")[0] for task in tasks_of(module, target)}
    assert (templates == {"weight_only"}) is taken
