"""What runs a model on call after call: the reference, many at once, or an artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.arrays import Tensor
from optc.inputs import call
from optc.ir.module import Module
from optc.ir.module import Port as ModulePort
from optc.runtime import Artifact

Array = NDArray[Any]
Arrays = Mapping[str, Array]
# Inputs of calls to their outputs, in order; states are at their first content in every call.
Runner = Callable[[Iterable[Arrays]], Iterator[Arrays]]


def ports_of(ports: tuple[ModulePort, ...]) -> tuple[Tensor, ...]:
    """A module's ports as an artifact's."""
    return tuple(Tensor(port.name, port.type.shape, port.type.dtype.value) for port in ports)


def reference(module: Module) -> Runner:
    """Runs a module with torch; bf16 outputs come widened to f32."""
    ports = ports_of(module.outputs)

    def run(calls: Iterable[Arrays]) -> Iterator[Arrays]:
        from optc.backends.reference.calls import calls_at_once, chunks, run_calls

        for chunk in chunks(calls, calls_at_once(module.graphs)):
            for found in run_calls(module, chunk):
                yield {port.name: _widened(port, found[port.name]) for port in ports}

    return run


def artifact_runner(artifact: Artifact) -> Runner:
    """Runs an artifact, its states reset before every call; bf16 outputs come widened to f32."""

    def run(calls: Iterable[Arrays]) -> Iterator[Arrays]:
        for inputs in calls:
            if artifact.states:
                artifact.reset()
            found = call(artifact, inputs)
            yield {port.name: _widened(port, found[port.name]) for port in artifact.outputs}

    return run


def _widened(port: Tensor, array: Array) -> Array:
    if port.dtype != "bf16":
        return array
    wide: Array = (array.astype(np.uint32) << 16).view(np.float32)
    return wide
