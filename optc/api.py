"""The Python front door: capture and compile."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optc.cache import default_cache
from optc.ir.diagnostics import Diagnostic
from optc.ir.module import Module
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Target
from optc.passes.pipeline import Pipeline

if TYPE_CHECKING:
    from optc.data.dataset import Given
    from optc.driver import Compiled

# `model` and its inputs are the user's objects: torch is not imported to say so.
_Model = Any


def capture(
    model: _Model,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    shapes: Mapping[str, int] | None = None,
    unsafe_load: bool = False,
    diagnostics: list[Diagnostic] | None = None,
) -> Module:
    """An `nn.Module` with example inputs, an ExportedProgram, or a `.pt2` path, as an IR module.

    Example inputs are tensors or numpy arrays, by position or by name. `shapes` fixes dynamic dims
    by name. `unsafe_load` unpickles a file that holds a whole `nn.Module`, which runs whatever code
    is in it and needs example inputs. Warnings are appended to `diagnostics`. Raises OptcError
    listing every op that is not supported.
    """
    from optc.ir.capture import capture as run

    return run(
        model,
        example_inputs,
        example_kwargs=example_kwargs,
        shapes=shapes,
        unsafe_load=unsafe_load,
        diagnostics=diagnostics,
    )


def compile(
    model: Module | _Model,
    target: str | Target = "host",
    *,
    out: str | PathLike[str] | None = None,
    passes: str = "",
    exact: bool = False,
    emit: Sequence[str] = ("so",),
    cache: str | PathLike[str] | None = None,
    records: str | PathLike[str] | None = None,
    data: Given | None = None,
    labels: str | None = None,
    metric: str | None = None,
    accuracy_drop: float | None = None,
    memory: str | int | None = None,
    measure_passes: bool = False,
    calibration_data: Given | None = None,
    calibration_labels: str | None = None,
    calibration_share: float | None = None,
) -> Compiled:
    """Compile a captured module, or what `capture` takes without inputs, for a target.

    The artifact goes to `out`, a folder or a `.optc` file; without it, to a temporary folder that
    lives as long as the process. `passes` is a pipeline such as `canonicalize,fuse{max_nodes=8}`.
    `cache` keeps compiled runtimes between calls (default: `~/.cache/optc`, as on the command
    line). `records` is a file that `optc tune` made; kernels take the fastest settings in it.

    `data` are samples: a file as on the command line, arrays by input name, or a function that
    returns batches. `labels` names an array in them, or a file; `metric` is as on the command line.
    Passes may learn from `calibration_share` of the samples (0.1 to 0.9; without it 0.3); on the
    others the result's `quality` says what the artifact loses, and whether `accuracy_drop` (0.01
    for 1 %) holds. With `calibration_data`, a set of its own with its `calibration_labels`, passes
    learn from that, and all of `data` is to judge by.

    `memory` is a budget, in bytes or as `64MB`: weights are streamed where that makes it hold, and
    E0530 says what is in the way where nothing does.

    With `measure_passes` the result's `passes` say what each lossy one made of the latency by the
    clock, and its `timings` what all of them did.
    """
    from optc.backends.aot.build import Emit
    from optc.driver import Options, compile_module
    from optc.memory import parse_size
    from optc.quality.evidence import DataRequest
    from optc.quality.learning import Learning

    module = model if isinstance(model, Module) else capture(model)
    machine = find_target(target) if isinstance(target, str) else target
    kept = Path(cache) if cache else default_cache()
    known = Path(records) if records else None
    learning = Learning(calibration_data, calibration_labels, calibration_share)
    learning.check(judged=data is not None)
    asked = None if data is None else DataRequest(data, labels, metric, accuracy_drop)
    asked = asked and learning.of(asked)
    budget = parse_size(memory) if isinstance(memory, str) else memory
    options = Options(
        Pipeline.parse(passes),
        exact,
        tuple(map(Emit, emit)),
        kept,
        records=known,
        data=asked,
        memory=budget,
        measure_passes=measure_passes,
    )
    return compile_module(module, machine, Path(out) if out else _temporary(), options)


def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="optc-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder, "out")
