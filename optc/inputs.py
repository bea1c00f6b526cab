"""Inputs for an artifact that nobody gave any, and its outputs by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.arrays import Tensor
from optc.runtime import Artifact


def random_arrays(ports: Sequence[Tensor], seed: int) -> dict[str, NDArray[Any]]:
    """Inputs from a seed: normal numbers; 0 or 1 for integers, which every index and mask takes."""
    arrays: dict[str, NDArray[Any]] = {}
    for index, port in enumerate(ports):
        generator = np.random.Generator(np.random.PCG64([seed, index]))
        if port.dtype.startswith("f"):
            arrays[port.name] = generator.standard_normal(port.shape).astype(port.storage)
        elif port.dtype == "bf16":
            numbers = generator.standard_normal(port.shape).astype(np.float32)
            arrays[port.name] = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        else:
            arrays[port.name] = generator.integers(0, 2, port.shape).astype(port.storage)
    return arrays


def call(artifact: Artifact, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run an artifact once; outputs by name, whatever structure the model returns."""
    result = artifact(**inputs)
    found: dict[int, NDArray[Any]] = {}
    _flatten(artifact.manifest["output_tree"], result, found)
    return {artifact.outputs[index].name: array for index, array in sorted(found.items())}


def _flatten(tree: Any, result: Any, found: dict[int, NDArray[Any]]) -> None:
    match tree:
        case int():
            found[tree] = result
        case {"tuple": list(items)} | {"list": list(items)}:
            for item, part in zip(items, result, strict=True):
                _flatten(item, part, found)
        case {"dict": dict(items)}:
            for key, item in items.items():
                _flatten(item, result[key], found)
        case None if result is not None:
            arrays = result if isinstance(result, tuple) else (result,)
            found.update(enumerate(arrays))
