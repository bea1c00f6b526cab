"""An `nn.Module` and example inputs to an exported program."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from optc.ir.diagnostics import Diagnostic, Severity, error

Examples = torch.Tensor | Sequence[Any] | Mapping[str, Any] | None
_POSITIONAL = re.compile(r"^(?:arr_)?(\d+)$")


def export(
    model: torch.nn.Module,
    examples: Examples,
    kwargs: Mapping[str, Any] | None,
    diagnostics: list[Diagnostic],
) -> ExportedProgram:
    """Trace the model in eval mode; its own mode is as before afterwards. Raises E0220, E0221."""
    if examples is None and not kwargs:
        raise error(
            "E0220",
            f"capturing {type(model).__name__} needs example inputs: shapes come from them",
            help="optc.capture(model, (x,)), or --example input.npz",
        )
    args, named = _arguments(examples, kwargs)
    modes = {part: part.training for part in model.modules()}
    if model.training:
        message = f"{type(model).__name__} was in training mode and is captured in eval mode"
        diagnostics.append(Diagnostic("W0243", message, Severity.WARNING, help="model.eval()"))
    try:
        model.eval()
        return torch.export.export(model, args, named, strict=False)
    except Exception as problem:
        first = str(problem).strip().partition("\n")[0]
        hint = "torch.export.export(model, example_inputs) shows torch's own explanation"
        if "Cache" in first:
            hint = "model.config.use_cache = False: the model returns a cache object"
        raise error(
            "E0221",
            f"torch cannot export {type(model).__name__}: {type(problem).__name__}: {first}",
            help=hint,
        ) from problem
    finally:
        for part, training in modes.items():
            part.training = training


def _arguments(
    examples: Examples, kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    named = {name: _tensor(value) for name, value in (kwargs or {}).items()}
    if examples is None:
        return (), named
    if isinstance(examples, torch.Tensor | np.ndarray):
        return (_tensor(examples),), named
    if not isinstance(examples, Mapping):
        return tuple(_tensor(value) for value in examples), named
    places = {name: _POSITIONAL.match(name) for name in examples}
    numbered = sorted((int(found[1]), name) for name, found in places.items() if found)
    args = tuple(_tensor(examples[name]) for _, name in numbered)
    rest = {name: _tensor(examples[name]) for name, found in places.items() if not found}
    return args, {**rest, **named}


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
