"""What runs a model on one call's inputs: the reference, or an artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.arrays import Tensor
from optc.inputs import call
from optc.ir.module import Module
from optc.ir.module import Port as ModulePort
from optc.runtime import Artifact

Array = NDArray[Any]
Runner = Callable[[Mapping[str, Array]], Mapping[str, Array]]  # states are at their first content


def ports_of(ports: tuple[ModulePort, ...]) -> tuple[Tensor, ...]:
    """A module's ports as an artifact's."""
    return tuple(Tensor(port.name, port.type.shape, port.type.dtype.value) for port in ports)


def reference(module: Module) -> Runner:
    """Runs a module with torch; bf16 outputs come widened to f32."""
    ports = ports_of(module.outputs)

    def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        from optc.backends.reference.trace import trace

        found = trace(module, inputs)
        return {port.name: _widened(port, found[port.name]) for port in ports}

    return run


def artifact_runner(artifact: Artifact) -> Runner:
    """Runs an artifact, its states reset before every call; bf16 outputs come widened to f32."""

    def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        if artifact.states:
            artifact.reset()
        found = call(artifact, inputs)
        return {port.name: _widened(port, found[port.name]) for port in artifact.outputs}

    return run


def _widened(port: Tensor, array: Array) -> Array:
    if port.dtype != "bf16":
        return array
    wide: Array = (array.astype(np.uint32) << 16).view(np.float32)
    return wide
