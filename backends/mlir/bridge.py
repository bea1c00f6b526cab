"""Hand a module to torch-mlir: torch, linalg, TOSA or StableHLO text for other compilers.

What is handed over is the IR as it stands, after whatever passes ran, by way of its torch meaning.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch_mlir import fx, ir

from optc.backends.reference import evaluate
from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.ir.diagnostics import error
from optc.ir.module import Module


class Dialect(Enum):
    """The MLIR dialects that torch-mlir writes; the value is `--emit`'s spelling."""

    TORCH = "torch"
    LINALG = "linalg"
    TOSA = "tosa"
    STABLEHLO = "stablehlo"


_OUTPUT_TYPE = {
    Dialect.TORCH: "torch",
    Dialect.LINALG: "linalg-on-tensors",
    Dialect.TOSA: "tosa",
    Dialect.STABLEHLO: "stablehlo",
}


def to_mlir(module: Module, dialect: Dialect) -> ir.Module:
    """The module as MLIR: one function `main` of its inputs and states, to its outputs and states.

    Raises E0601 when torch-mlir cannot express an op in the dialect.
    """
    inputs = tuple(
        torch.zeros(type.shape, dtype=TORCH_DTYPE[type.dtype])
        for type in [*(port.type for port in module.inputs), *(s.type for s in module.states)]
    )
    program = torch.export.export(_Callable(module), inputs)
    try:
        return fx.export_and_import(program, output_type=_OUTPUT_TYPE[dialect], func_name="main")
    except Exception as problem:  # torch-mlir raises what its passes raise: no class of its own
        first = str(problem).strip().splitlines()
        reason = next((line for line in first if "error:" in line), first[0] if first else "")
        raise error(
            "E0601",
            f"torch-mlir cannot write this module as {dialect.value}: {reason.strip()}",
            help="--emit linalg takes the most ops; --emit so needs no MLIR",
        ) from problem


class _Callable(torch.nn.Module):
    """The module's meaning as torch.export wants it: tensors in, tensors out."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Inputs and states in order; outputs and states in order."""
        count = len(self.module.inputs)
        names = [port.name for port in self.module.inputs]
        states = [state.name for state in self.module.states]
        result = evaluate.run(
            self.module,
            dict(zip(names, tensors[:count], strict=True)),
            dict(zip(states, tensors[count:], strict=True)),
        )
        outputs = [result.outputs[port.name] for port in self.module.outputs]
        return (*outputs, *(result.states[name] for name in states))
