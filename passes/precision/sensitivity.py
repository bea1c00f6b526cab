"""What one layer's rounding does to the output: the layer alone is changed, and the model run.

The ratio is of signal to quantization noise, as MixDQ takes it (Zhao et al. 2024). Errors of
layers are taken as independent, so what a plan adds to the output is the sum of what its layers do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from optc.ir.graph import Value
from optc.ir.module import ExitIf, Module, Run
from optc.passes.calibration import Array, Calibration

SILENT = 1e-12  # of the signal: what rounding of f32 does anyhow


class Sensitivity(Enum):
    """What the noise of a choice is measured by."""

    SQNR = "sqnr"  # power of the error at the output, as a share of the output's
    METRIC = "metric"  # what the user's metric loses


@dataclass
class Listener:
    """Compares the outputs of changed modules with the source's, on some calls of the data."""

    source: Module
    output: str  # that counts; with exits what each of them returns counts alike
    calibration: Calibration
    calls: int
    _wanted: list[list[Array]] = field(default_factory=list)

    def noise(self, module: Module) -> float:
        """The power of the error over that of the signal, the mean over watched values."""
        if not self._wanted:
            self._wanted = self._heard(self.source)
        found = self._heard(module)
        shares = [_share(wanted, new) for wanted, new in zip(self._wanted, found, strict=True)]
        return max(SILENT, sum(shares) / max(1, len(shares)))

    def _heard(self, module: Module) -> list[list[Array]]:
        values = watched(module, self.output)
        heard: list[list[Array]] = [[] for _ in values]

        def hear(found: Mapping[Value, Array]) -> None:
            for value, arrays in zip(values, heard, strict=True):
                arrays.append(np.array(found[value]))

        self.calibration.visit(module, values, hear, self.calls)
        return heard


def watched(module: Module, output: str) -> list[Value]:
    """The values of floats that the output is taken from, at every way out."""
    place = [port.name for port in module.outputs].index(output)
    named: dict[str, Value] = {}
    found: list[Value] = []
    for step in module.flow.steps:
        match step:
            case Run(graph, _, outputs):
                named |= zip(outputs, module.graph_of[graph].outputs, strict=True)
            case ExitIf(_, results) if results[place] in named:
                found.append(named[results[place]])
    if output in named:
        found.append(named[output])
    return [value for value in dict.fromkeys(found) if value.type.dtype.is_float]


def decibels(noise: float) -> float:
    """Signal over noise in dB."""
    return -10 * math.log10(max(noise, SILENT))


def _share(wanted: Sequence[Array], found: Sequence[Array]) -> float:
    signal = error = 0.0
    for one, other in zip(wanted, found, strict=True):
        whole = one.astype(np.float64)
        signal += float(np.sum(whole**2))
        error += float(np.sum((other.astype(np.float64) - whole) ** 2))
    if not math.isfinite(error):
        return math.inf
    return error / max(signal, 1e-300)
