"""Where samples come from: `.npz`, `.npy`, a folder of them, or a Python function.

A source is walked from the start, a block of consecutive samples at a time, as often as asked. No
more than a block is in memory, except for arrays in Fortran order, whose samples do not lie
together in the file.
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from optc.ir.diagnostics import OptcError, error

Array = NDArray[Any]
Block = Mapping[str, Array]
T = TypeVar("T")
BLOCK_BYTES = 8 << 20
BLOCK_SAMPLES = 1024


class Source(ABC):
    """Named arrays whose first axis counts samples.

    `names` are those of all its arrays; None where they are known batch by batch only.
    """

    names: tuple[str, ...] | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """What the user wrote."""

    @abstractmethod
    def blocks(self, inputs: Sequence[str], more: Collection[str] = ()) -> Iterator[Block]:
        """Consecutive samples: the arrays called `inputs`, and those of `more` that are there."""


class Arrays(Source):
    """Arrays in memory, by name; `labels` may be among them."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = {name: np.asarray(array) for name, array in arrays.items()}
        self.names = tuple(self._arrays)

    @property
    def name(self) -> str:
        """Says that there is no file."""
        return "arrays in memory"

    def blocks(self, inputs: Sequence[str], more: Collection[str] = ()) -> Iterator[Block]:
        """Slices; raises E0742 for unequal lengths."""
        wanted = [name for name in dict.fromkeys((*inputs, *more)) if name in self._arrays]
        for start, count in _steps(self.name, {name: self._arrays[name] for name in wanted}):
            yield {name: self._arrays[name][start : start + count] for name in wanted}


@dataclass(frozen=True)
class _Column:
    """One array of a file, read from its start."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    take: Callable[[int], Array]  # the next samples, at most so many


class Files(Source):
    """The arrays of a `.npz` file, a folder of `.npy` files by their stems, or one `.npy`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise _unreadable(path, "there is no such file")
        self.names = _readable(path, lambda: _names(path))

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def blocks(self, inputs: Sequence[str], more: Collection[str] = ()) -> Iterator[Block]:
        """Slices of the arrays; raises E0740 for what cannot be read, E0742 for unequal lengths."""
        known = self.names or ()
        wanted = [name for name in dict.fromkeys((*inputs, *more)) if name in known]
        with ExitStack() as stack:
            columns = {name: _readable(self.path, self._opener(name, stack)) for name in wanted}
            for _, count in _steps(self.name, columns):
                yield _readable(self.path, lambda n=count: _take(columns, n))  # type: ignore[misc]

    def _opener(self, name: str, stack: ExitStack) -> Callable[[], _Column]:
        return lambda: _open(self.path, name, stack)


def _names(path: Path) -> tuple[str, ...]:
    if path.is_dir():
        return tuple(sorted(item.stem for item in path.glob("*.npy")))
    if path.suffix == ".npy":
        return (path.stem,)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return tuple(name.removesuffix(".npy") for name in names if name.endswith(".npy"))


def _open(path: Path, name: str, stack: ExitStack) -> _Column:
    if path.is_dir():
        return _mapped(path / f"{name}.npy")
    if path.suffix == ".npy":
        return _mapped(path)
    archive = stack.enter_context(zipfile.ZipFile(path))
    file = stack.enter_context(archive.open(f"{name}.npy"))
    version = np.lib.format.read_magic(cast("Any", file))
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(cast("Any", file))
    if dtype.hasobject:
        raise ValueError(f"{name!r} holds pickled objects")
    if fortran:
        whole = stack.enter_context(np.load(path, allow_pickle=False))[name]
        return _Column(whole.shape, whole.dtype, _slices(whole))
    return _Column(shape, dtype, _streamed(file, shape, dtype))


def _mapped(path: Path) -> _Column:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return _Column(array.shape, array.dtype, _slices(array))


def _slices(array: Array) -> Callable[[int], Array]:
    place = 0

    def take(count: int) -> Array:
        nonlocal place
        place += count
        return np.array(array[place - count : place])

    return take


def _streamed(
    file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Callable[[int], Array]:
    def take(count: int) -> Array:
        part = (count, *shape[1:])
        wanted = int(np.prod(part, dtype=np.int64)) * dtype.itemsize
        data = file.read(wanted)
        if len(data) != wanted:
            raise EOFError("it ends too early")
        return np.frombuffer(data, dtype).reshape(part)

    return take


def _steps(place: str, columns: Mapping[str, _Column | Array]) -> Iterator[tuple[int, int]]:
    """Start and length of each block; raises E0742 for arrays that have not equally many rows."""
    for name, column in columns.items():
        if not column.shape:
            raise error("E0742", f"{name!r} in {place} is a single number: no samples")
    lengths = {name: column.shape[0] for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise error("E0742", f"the arrays of {place} differ in samples: {text}")
    samples = next(iter(lengths.values()), 0)
    size = _block_size(columns.values())
    for start in range(0, samples, size):
        yield start, min(size, samples - start)


def _take(columns: Mapping[str, _Column], count: int) -> Block:
    return {name: column.take(count) for name, column in columns.items()}


def _block_size(columns: Collection[_Column | Array]) -> int:
    sizes = [
        int(np.prod(column.shape[1:], dtype=np.int64)) * column.dtype.itemsize for column in columns
    ]
    return max(1, min(BLOCK_SAMPLES, BLOCK_BYTES // max(1, *sizes, 1)))


def _unreadable(path: Path, reason: object) -> OptcError:
    return error(
        "E0740",
        f"cannot read data from {path}: {(str(reason) or type(reason).__name__).splitlines()[0]}",
        help="numpy.savez('calib.npz', x=array, ...), the first axis being samples",
    )


def _readable(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as problem:
        raise _unreadable(path, problem) from None
