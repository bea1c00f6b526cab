"""Arrays in and out of the command line: `.npz` files, and random inputs from a seed."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.arrays import Tensor
from optc.ir.diagnostics import error
from optc.ir.output import replace_file
from optc.runtime import Artifact


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz` file by name; raises E0112 for a missing file and E0710 for another kind."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            return {name: archive[name] for name in archive.files}
    except OSError as problem:
        raise error("E0112", f"cannot read {path}: {problem.strerror or problem}") from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zipfile.LargeZipFile) as problem:
        raise error(
            "E0710",
            f"{path} is not a .npz file of plain arrays: {str(problem).splitlines()[0]}",
            help="numpy.savez('x.npz', name=array, ...)",
        ) from None


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a `.npz` file, whole or not at all; raises E0150 or E0151."""
    with replace_file(path) as aside, aside.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def random_arrays(ports: Sequence[Tensor], seed: int) -> dict[str, NDArray[Any]]:
    """Inputs from a seed: normal numbers, and 0 or 1 for integers, which every index and mask takes."""
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
