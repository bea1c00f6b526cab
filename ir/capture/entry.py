"""The front door: a model, an exported program or a file becomes an `ir.Module`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from optc.ir.capture.export import Examples, export
from optc.ir.capture.modules import module_from
from optc.ir.capture.open import open_model
from optc.ir.diagnostics import Diagnostic, error
from optc.ir.module import Module


def capture(
    model: torch.nn.Module | ExportedProgram | str | Path,
    example_inputs: Examples = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    shapes: Mapping[str, int] | None = None,
    unsafe_load: bool = False,
    diagnostics: list[Diagnostic] | None = None,
) -> Module:
    """Capture a model.

    `model` is an `nn.Module` with example inputs (positional as a tuple, or by name as a mapping),
    an `ExportedProgram`, or the path of what `torch.export.save` wrote. `shapes` gives dynamic
    dimensions their extents, such as `{"batch": 1}`. `unsafe_load` unpickles a whole-model file,
    which runs whatever code the file holds; nothing is unpickled without it. Warnings are appended
    to `diagnostics`.

    Raises OptcError: E0201 to E0207 for files, E0210 to E0212 for dimensions, E0220 to E0222 for
    what torch cannot export, E0230 for operators without a meaning in the IR.
    """
    found: list[Diagnostic] = []
    name = type(model).__name__
    if isinstance(model, str | Path):
        path = Path(model)
        name = path.name.partition(".")[0]
        model = open_model(path, unsafe_load=unsafe_load, diagnostics=found)
    if isinstance(model, torch.nn.Module):
        program = export(model, example_inputs, example_kwargs, found)
    elif isinstance(model, ExportedProgram):
        program = model
    else:
        raise error(
            "E0220",
            f"cannot capture {type(model).__name__}: not an nn.Module, ExportedProgram or path",
        )
    module = module_from(program, name, shapes, found)
    if diagnostics is not None:
        diagnostics += found
    return module
