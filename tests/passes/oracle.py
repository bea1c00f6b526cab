"""What every pass must keep: the module's results, its well-formedness, and its own fixed point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from optc.backends.reference.evaluate import run
from optc.backends.reference.fold import evaluate_constants
from optc.ir.dtype import DType
from optc.ir.module import Module
from optc.ir.ops import Op
from optc.ir.ops.base import op_name
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.ir.verify import verify
from optc.passes.base import Effect, Pass, PassContext, run_passes

TARGET = find_target("x86-64-v3")


def context(*, exact: bool = False) -> PassContext:
    """What the driver gives to passes, without a backend."""
    return PassContext(TARGET, exact=exact, evaluate=evaluate_constants)


def inputs_of(module: Module, seed: int = 0) -> Mapping[str, torch.Tensor]:
    """Random inputs: small multiples of 1/4, with signed zeros; indices are 0 or 1."""
    generator = np.random.default_rng(seed)
    return {
        port.name: _tensor(generator, port.type.shape, port.type.dtype) for port in module.inputs
    }


def _tensor(generator: np.random.Generator, shape: Sequence[int], dtype: DType) -> torch.Tensor:
    if not dtype.is_float:
        return torch.from_numpy(generator.integers(0, 2, shape).astype(dtype.storage))
    numbers = generator.integers(-12, 13, shape) / 4
    zeros = np.where(generator.integers(0, 2, shape) == 1, 0.0, -0.0)
    tensor = torch.from_numpy(np.asarray(np.where(numbers == 0, zeros, numbers)))
    kinds = {DType.F64: torch.float64, DType.F16: torch.float16, DType.BF16: torch.bfloat16}
    return tensor.to(kinds.get(dtype, torch.float32))


def check(
    passes: Pass | Sequence[Pass], module: Module | str, *, tolerance: float = 1e-5, seed: int = 0
) -> Module:
    """Run passes and hold them to their promises; returns the new module.

    EXACT passes must keep every bit; others stay within `tolerance` of the output's largest
    magnitude. A second run must return the same object.
    """
    steps = [passes] if isinstance(passes, Pass) else list(passes)
    before = parse(module) if isinstance(module, str) else module
    after = run_passes(before, steps, context())
    assert not verify(after)
    assert run_passes(after, steps, context()) is after, "a second run changed the module again"
    exact = all(step.effect is Effect.EXACT and not step.composite for step in steps)
    same(before, after, exact=exact, tolerance=tolerance, seed=seed)
    return after


def same(before: Module, after: Module, *, exact: bool, tolerance: float, seed: int) -> None:
    """Both modules give the same outputs for random inputs."""
    inputs = inputs_of(before, seed)
    old, new = run(before, inputs).outputs, run(after, inputs).outputs
    assert old.keys() == new.keys()
    for name in old:
        a, b = old[name], new[name]
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        if exact or not a.is_floating_point():
            assert bits(a) == bits(b), f"{name}: {a} became {b}"
            continue
        finite = torch.isfinite(a)
        scale = max(float(a[finite].abs().max()) if finite.any() else 0.0, 1e-3)
        error = float((a - b)[finite].abs().max()) if finite.any() else 0.0
        assert error <= tolerance * scale, f"{name}: off by {error} of {scale}: {a} became {b}"


def bits(tensor: torch.Tensor) -> bytes:
    """The tensor's content, all nans being one."""
    if tensor.is_floating_point():
        tensor = torch.where(tensor.isnan(), torch.full_like(tensor, float("nan")), tensor)
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return tensor.contiguous().numpy().tobytes()


def ops_of(module: Module) -> list[str]:
    """The op names of the first graph, in order."""
    return [node.op.name for node in module.graphs[0].nodes]


def count(module: Module, *kinds: type[Op]) -> int:
    """How many nodes of the first graph are of these kinds."""
    return sum(ops_of(module).count(op_name(kind)) for kind in kinds)
