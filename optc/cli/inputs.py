"""Arrays in and out of the command line: `.npz` files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.ir.diagnostics import error
from optc.ir.output import replace_file


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz` file by name; raises E0112 (no such file), E0710 (another kind)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise TypeError("it holds one array without a name")
            return {name: archive[name] for name in archive.files}
    except OSError as problem:
        raise error("E0112", f"cannot read {path}: {problem.strerror or problem}") from None
    except (
        TypeError,
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
    ) as problem:
        raise error(
            "E0710",
            f"{path} is not a .npz file of plain arrays: {str(problem).splitlines()[0]}",
            help="numpy.savez('x.npz', name=array, ...)",
        ) from None


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a `.npz` file, whole or not at all; raises E0150 or E0151."""
    with replace_file(path) as aside, aside.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
