"""What tests of precision share: contexts with data, and networks in f32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from optc.backends.reference.evaluate import run
from optc.ir.constant import constant, to_floats
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module, module_of
from optc.ir.targets.find import find_target
from optc.passes.base import PassContext
from optc.quality.evidence import DataRequest, Evidence
from tests.passes.oracle import context

SAMPLES = 24


def in_f32(graph: Graph) -> Graph:
    """The graph with f32 for every f64."""
    new = {
        value: Value(value.type.with_dtype(DType.F32), value.hint)
        for value in graph.values()
        if value.type.dtype is DType.F64
    }

    def of(values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(new.get(value, value) for value in values)

    constants = {
        new.get(value, value): constant(to_floats(item).astype(np.float32))
        if value in new
        else item
        for value, item in graph.constants.items()
    }
    nodes = tuple(Node(n.op, of(n.inputs), of(n.outputs), n.loc) for n in graph.nodes)
    return Graph(graph.name, of(graph.inputs), nodes, of(graph.outputs), constants)


def samples(
    module: Module, count: int = SAMPLES, seed: int = 0
) -> Mapping[str, NDArray[np.generic]]:
    """Normal numbers, or tokens below 7, for inputs whose first axis is the batch."""
    draw = np.random.default_rng(seed)
    found: dict[str, NDArray[np.generic]] = {}
    for port in module.inputs:
        shape = (count, *port.type.shape[1:])
        if port.type.dtype.is_float:
            found[port.name] = draw.standard_normal(shape).astype(np.float32)
        else:
            found[port.name] = draw.integers(0, 7, shape).astype(port.type.dtype.storage)
    return found


def with_data(module: Module | Graph, target: str = "x86-64-v3") -> tuple[Module, PassContext]:
    """The module, and a context that has data for it."""
    whole = module_of(module) if isinstance(module, Graph) else module
    evidence = Evidence(whole, DataRequest(samples(whole)))
    return whole, replace(
        context(),
        target=find_target(target),
        calibration=evidence.calibration,
        judge=evidence.judge,
    )


def outputs(module: Module, seed: int = 1) -> list[torch.Tensor]:
    """What a module gives for one call's worth of other samples."""
    batch = module.inputs[0].type.shape[0]
    drawn = samples(module, batch, seed)
    with torch.no_grad():
        found = run(module, {name: torch.from_numpy(array) for name, array in drawn.items()})
    return list(found.outputs.values())
