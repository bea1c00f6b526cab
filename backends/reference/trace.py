"""Run a module and show its values, as numpy arrays, to whoever asked for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from optc.backends.reference.dtypes import to_tensor
from optc.backends.reference.evaluate import run_graph
from optc.ir.constant import constant
from optc.ir.dtype import DType
from optc.ir.flow import follow
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module

Arrays = Mapping[str, NDArray[Any]]
See = Callable[[Value, NDArray[Any]], object]


def trace(
    module: Module,
    inputs: Arrays,
    wanted: Collection[Value] = (),
    see: See | None = None,
    *,
    leave: bool = True,
) -> dict[str, NDArray[Any]]:
    """Call a module once, states at their first content; `see` gets each value of `wanted`.

    Arrays are in the storage of their dtype (bf16 as uint16). What `see` does not keep is freed
    after its last use. A graph that runs twice shows its values twice. Without `leave` no exit is
    taken, so that every stage is seen. Returns outputs by name.
    """
    names = {state.name: to_tensor(state.initial) for state in module.states}
    for port in module.inputs:
        names[port.name] = to_tensor(
            constant(np.ascontiguousarray(inputs[port.name]), port.type.dtype)
        )
    chosen = set(wanted)

    def show(values: Sequence[Value], tensors: Sequence[torch.Tensor]) -> None:
        for value, tensor in zip(values, tensors, strict=True):
            if see is not None and value in chosen:
                see(value, _array(tensor, value.type.dtype))

    def observe(node: Node, results: tuple[torch.Tensor, ...]) -> None:
        show(node.outputs, results)

    def shown(graph: Graph, given: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        show(graph.inputs, given)
        return run_graph(graph, given, observe=observe)

    with torch.no_grad():
        outputs = follow(module, names, shown, leave=leave).outputs
    return {port.name: _array(outputs[port.name], port.type.dtype) for port in module.outputs}


def _array(tensor: torch.Tensor, dtype: DType) -> NDArray[Any]:
    tensor = tensor.detach().contiguous()
    if dtype is DType.BF16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
