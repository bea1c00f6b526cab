"""Half floats on the way widen what a result may be off by; nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from optc.backends.reference.trace import trace
from optc.contexts import pass_context
from optc.diff import compare_outputs
from optc.ir.dtype import DType
from optc.ir.module import Module
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.passes.fusion.fuse import Fuse
from optc.replay import Rebuild, bad_kernel, first_drift
from optc.roughness import TOLERANCE, of_outputs

WIDE = 256
LAYERS = f"""graph @main(%x: 4x{WIDE}xf32, %z: 4x{WIDE}xf32) {{
  %w = constant {{seed=1}} : 8x{WIDE}xHALF
  %v = constant {{seed=2}} : 8x{WIDE}xf32
  %half = cast(%x) {{dtype=HALF}} : 4x{WIDE}xHALF
  %a = linear(%half, %w) : 4x8xHALF
  %s = mul(%a, %a) : 4x8xHALF
  %wide = cast(%s) {{dtype=f32}} : 4x8xf32
  %y = tanh(%wide) : 4x8xf32
  %plain = linear(%z, %v) : 4x8xf32
  return %y, %plain
}}"""
DRAW = np.random.default_rng(3)
X = {name: DRAW.standard_normal((4, WIDE)).astype(np.float32) for name in "xz"}


@pytest.fixture(params=["bf16", "f16"])
def layers(request: pytest.FixtureRequest) -> Module:
    """A result behind products in half floats, and one that never met any; both are f32."""
    return parse(LAYERS.replace("HALF", request.param))


def test_only_what_lies_behind_half_floats_is_rough(layers: Module) -> None:
    bounds = of_outputs(layers)
    assert bounds["plain"] == 0.0
    assert bounds["y"] in (1e-2, 5e-2)
    gaps = compare_outputs(layers, trace(layers, X), trace(layers, X))
    assert [gap.tolerance for gap in gaps] == [bounds["y"], 1e-4]


@pytest.fixture(scope="module")
def cached(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = getattr(request.config, "cache", None)
    return Path(kept.mkdir("optc")) if kept else tmp_path_factory.mktemp("cache")


def test_kernels_that_keep_f32_between_half_floats_are_right(cached: Path) -> None:
    module, target = parse(LAYERS.replace("HALF", "bf16")), find_target("host")
    fused = Fuse().run(module, pass_context(target))
    assert len(fused.graphs[0].nodes) < len(module.graphs[0].nodes)
    rebuild = Rebuild(target, cache=cached)
    assert bad_kernel(fused, rebuild, X) is None
    assert first_drift(fused, rebuild, X) is None
    # They do round elsewhere: what f32 promises by itself would blame them.
    strict = replace(rebuild, scale=TOLERANCE[DType.F32] / TOLERANCE[DType.BF16])
    assert bad_kernel(fused, strict, X) is not None


def off(module: Module, name: str, share: float) -> dict[str, NDArray[Any]]:
    right = trace(module, X)
    span = float(right[name].max() - right[name].min())
    return {**right, name: right[name] + np.float32(share * span)}


@pytest.mark.parametrize(
    ("name", "share", "good"),
    [
        ("y", 3e-3, True),
        ("y", 0.1, False),
        ("plain", 3e-3, False),
        ("plain", 5e-5, True),
    ],
)
def test_what_is_too_far_off_is_still_wrong(
    layers: Module, name: str, share: float, good: bool
) -> None:
    gaps = compare_outputs(layers, trace(layers, X), off(layers, name, share))
    assert all(gap.ok for gap in gaps) is good
