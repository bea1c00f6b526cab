"""How much goes, in which steps, of which families, and by which importance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optc.ir.diagnostics import OptcError, Severity
from optc.ir.dtype import DType
from optc.ir.module import Module
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.passes.base import PassContext
from optc.passes.pipeline import Pipeline
from optc.passes.prune.selection import kernel_step, removable

TWO = """graph @main(%x: 1x4xf32) {
  %w = constant {seed=1} : 8x4xf32
  %v = constant {seed=2} : 8x8xf32
  %last = constant {seed=3} : 2x8xf32
  %zero = constant {splat=0.0} : 8xf32
  %a = linear(%x, %w, %zero) : 1x8xf32
  %b = linear(%a, %v, %zero) : 1x8xf32
  %y = linear(%b, %last) : 1x2xf32
  return %y
}
"""
TIED = """graph @main(%x: 1x4xf32, %i: 1x3xi64) {
  %table = constant {seed=1} : 9x8xf32
  %rows = take(%table, %i) : 1x3x8xf32
  %y = linear(%rows, %table) : 1x3x9xf32
  return %y
}
"""


def ran(pipeline: str, text: str, target: str = "x86-64-v3") -> tuple[Module, list[str]]:
    context = PassContext(find_target(target))
    after = Pipeline.parse(pipeline).run(parse(text), context)
    return after, [str(found.message) for found in context.diagnostics]


def weights(module: Module) -> list[tuple[int, ...]]:
    """Shapes of the constants that are matrices."""
    return [v.shape for v in module.graphs[0].constants if v.type.rank == 2]


@given(st.integers(1, 4096), st.floats(0, 1), st.integers(1, 64))
def test_no_more_than_the_ratio_goes_and_whole_granules_stay(
    count: int, ratio: float, granule: int
) -> None:
    gone = removable(count, ratio, granule)
    assert 0 <= gone <= count * ratio + 1e-6
    assert gone < count
    assert gone == 0 or (count - gone) % granule == 0


def test_a_zero_bias_in_two_layers_couples_nothing() -> None:
    module, remarks = ran("prune-channels{ratio=0.5,align=1}", TWO)
    assert remarks[0] == "4 of 8 channels of linear removed"
    assert weights(module) == [(4, 4), (4, 4), (2, 4)]


def test_a_matrix_that_is_tied_is_cut_in_both_its_roles() -> None:
    module, _ = ran("prune-channels{ratio=0.5,align=1}", TIED)
    assert weights(module) == [(9, 4)]


def test_widths_follow_the_target() -> None:
    assert kernel_step(find_target("x86-64-v3"), DType.F32) == 8
    assert kernel_step(find_target("cortex-a72"), DType.F32) == 4
    module, remarks = ran("prune-channels{ratio=0.5}", TWO, "cortex-a72")
    assert weights(module) == [(4, 4), (4, 4), (2, 4)], remarks
    _, remarks = ran("prune-channels{ratio=0.5}", TWO)
    assert "4 fewer would be no multiple of 8" in remarks[0]


def test_the_smallest_slices_go_first() -> None:
    text = """graph @main(%x: 1x1xf32) {
  %w = constant {values=(5.0, -1.0, 3.0, 0.5)} : 4x1xf32
  %last = constant {splat=1.0} : 1x4xf32
  %a = linear(%x, %w) : 1x4xf32
  %y = linear(%a, %last) : 1x1xf32
  return %y
}
"""
    for criterion in ("l1", "l2"):
        module, _ = ran(f"prune-channels{{ratio=0.5,align=1,criterion={criterion}}}", text)
        first = next(iter(module.graphs[0].constants.values()))
        np.testing.assert_array_equal(first.array, [[5.0], [3.0]])


def test_random_follows_its_seed() -> None:
    one, again, other = (
        ran(f"prune-channels{{ratio=0.5,align=1,criterion=random,seed={n}}}", TWO)[0]
        for n in (1, 1, 2)
    )
    digests = [
        [item.digest for item in module.graphs[0].constants.values()]
        for module in (one, again, other)
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("options", ["ratio=1.5", "ratio=-0.1", "align=0", "criterion=best"])
@pytest.mark.parametrize("name", ["prune-channels", "prune-heads"])
def test_a_bad_option_is_the_users_error(name: str, options: str) -> None:
    with pytest.raises(OptcError, match="E0132"):
        Pipeline.parse(f"{name}{{{options}}}")


NAMED = """graph @main(%x: 1x4xf32) {
  %w = constant {seed=1} : 8x4xf32
  %v = constant {seed=2} : 8x8xf32
  %last = constant {seed=3} : 2x8xf32
  %a = linear(%x, %w) : 1x8xf32 @ "model.py":3 in "encoder.first"
  %b = linear(%a, %v) : 1x8xf32 @ "model.py":4 in "encoder.second"
  %y = linear(%b, %last) : 1x2xf32 @ "model.py":5 in "head"
  return %y
}
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("only=(encoder.first)", [(4, 4), (8, 4), (2, 8)]),
        ("keep=(*.first)", [(8, 4), (4, 8), (2, 4)]),
        ("only=(encoder),keep=(encoder.second,head)", [(4, 4), (8, 4), (2, 8)]),
    ],
)
def test_layers_are_chosen_by_name(options: str, expected: list[tuple[int, ...]]) -> None:
    module, remarks = ran(f"prune-channels{{ratio=0.5,align=1,{options}}}", NAMED)
    assert weights(module) == expected, remarks


def test_a_name_that_no_layer_has_is_the_users_error() -> None:
    with pytest.raises(OptcError, match="E0137") as caught:
        ran("prune-channels{keep=(encoder.frist)}", NAMED)
    (finding,) = caught.value.diagnostics
    assert "did you mean encoder.first" in finding.message
    assert finding.help == "-p 'prune-channels{keep=(encoder.first)}'"


def test_nothing_left_to_prune_is_a_warning() -> None:
    context = PassContext(find_target("x86-64-v3"))
    module = parse(TWO)
    assert Pipeline.parse("prune-channels{ratio=0.1,align=1}").run(module, context) is module
    warnings = [item for item in context.diagnostics if item.severity is Severity.WARNING]
    assert [item.code for item in warnings] == ["W0315"]
    assert warnings[0].message.startswith("prune-channels removed nothing: 8 channels")
