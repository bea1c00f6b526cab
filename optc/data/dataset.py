"""The user's data, checked against a model's inputs and cut into calls of its batch size.

Opening walks all samples once: it checks shapes and dtypes, counts, and takes the digest. Nothing
but a block of samples and a call's inputs is ever in memory.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.arrays import Tensor
from optc.data.function import Function
from optc.data.labels import Labels
from optc.data.source import Array, Arrays, Block, Files, Source
from optc.data.split import Split
from optc.ir.diagnostics import Diagnostic, OptcError, Severity, error
from optc.passes.calibration import Batch
from optc.passes.quality import Part

SPLIT = Split()
ROWS = "labels "  # of a block: no input is called so, a name has no blank


@dataclass(frozen=True, slots=True)
class Facts:
    """What a walk over all samples found."""

    samples: int
    calibration: int
    held_out: int
    labelled: bool
    digest: str


class Dataset:
    """Samples for a model. `ports` are its inputs, `limit` the number of samples to use.

    An input of shape (B, ...) takes B samples of an array (N, ...) in one call. Where no input of
    the model has such an axis, an array (N, *shape) gives one call per sample.
    """

    def __init__(
        self,
        source: Source,
        ports: Sequence[Tensor],
        labels: Labels,
        split: Split = SPLIT,
        limit: int | None = None,
    ) -> None:
        self.source, self.ports, self.labels = source, tuple(ports), labels
        self.split, self.limit = split, limit
        self.batch: int | None = None  # samples of a call; None: a sample is a call without an axis
        self.dropped: NDArray[np.bool_] | None = None  # samples that are in no part
        self.nans = 0  # samples with a NaN in them
        self.facts = self._scan()

    def findings(self) -> list[Diagnostic]:
        """W0756 where samples hold NaN, which no model takes for anything."""
        if not self.nans:
            return []
        text = f"{self.nans} of {self.facts.samples} samples of {self.source.name} hold NaN"
        text += ": what is learnt from them, or judged by them, says nothing"
        help = "numpy.nan_to_num(array), or leave them out"
        return [Diagnostic("W0756", text, Severity.WARNING, help=help)]

    def without(self, dropped: NDArray[np.bool_]) -> Dataset:
        """The same data, with some samples in no part; `dropped` has an entry a sample."""
        return self._parted(self.split, dropped) if dropped.any() else self

    def divided(self, split: Split) -> Dataset:
        """The same data, split otherwise."""
        return self._parted(split, self.dropped)

    def _parted(self, split: Split, dropped: NDArray[np.bool_] | None) -> Dataset:
        other = copy.copy(self)
        other.split, other.dropped = split, dropped
        parts = (Part.CALIBRATION, Part.HELD_OUT)
        masks = (other.left(split.mask(0, self.facts.samples, part), 0) for part in parts)
        calibration, held_out = (int(mask.sum()) for mask in masks)
        other.facts = replace(self.facts, calibration=calibration, held_out=held_out)
        return other

    def contents(self) -> Iterator[bytes]:
        """Digests of the samples' inputs, in order: equal ones are equal samples."""
        for block in self.blocks():
            columns = [np.ascontiguousarray(block[port.name]) for port in self.ports]
            for rows in zip(*columns, strict=True):
                content = hashlib.blake2b(digest_size=16)
                for row in rows:
                    content.update(row.tobytes())
                yield content.digest()

    def part(self, part: Part) -> PartOfData:
        """The batches of a part; raises E0746 when it has no sample."""
        found = PartOfData(self, part)
        if not found.samples:
            raise error(
                "E0746",
                f"{self.source.name} has {self.facts.samples} samples: none is left for the "
                f"{part.value} part",
                help="give at least ten, better a thousand samples",
            )
        return found

    def record(self) -> dict[str, Any]:
        """What the lock file says about the data; of a path its last part."""
        return {
            "source": Path(self.source.name).name,
            **asdict(self.facts),
            "split": asdict(self.split),
        }

    def left(self, mask: NDArray[np.bool_], start: int) -> NDArray[np.bool_]:
        """`mask`, of samples from `start` on, without those that were dropped."""
        dropped = self.dropped
        return mask if dropped is None else mask & ~dropped[start : start + len(mask)]

    def blocks(self) -> Iterator[Block]:
        """Checked blocks of consecutive samples up to the limit; labels under `ROWS`."""
        names = [port.name for port in self.ports]
        left, done = self.limit, 0
        rows = self.labels.reader(self.source, names)
        for block in self.source.blocks(names, self.labels.inside(names)):
            count = len(next(iter(block.values()), ()))
            count = count if left is None else min(count, left)
            if not count:
                continue
            checked = {port.name: self._checked(port, block, count) for port in self.ports}
            found = rows(block, done, count)
            yield checked if found is None else {**checked, ROWS: found}
            done += count
            left = None if left is None else left - count
            if left == 0:
                return
        rows.finish(done)

    def _checked(self, port: Tensor, block: Block, count: int) -> Array:
        if port.name not in block:
            raise missing(port, self.source, self._known(block))
        array = np.ascontiguousarray(block[port.name][:count])
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if port.dtype == "bf16" and array.dtype.name == "bfloat16":
            array = array.view(np.uint16)
        if array.dtype != port.storage:
            raise error(
                "E0742",
                f"{port.name!r} in {self.source.name} is {array.dtype}, the model takes {port}",
                help=f"{port.name}.astype('{port.storage}'), if that is what is meant",
            )
        if array.shape[1:] != self._sample_shape(port):
            text = "x".join(map(str, ("N", *array.shape[1:])))
            raise error(
                "E0742",
                f"{port.name!r} in {self.source.name} has shape {text}, the model takes {port}",
                help="the first axis is samples; the rest is the input's shape without its batch",
            )
        return array

    def _known(self, block: Block) -> Sequence[str]:
        return self.source.names or tuple(block)

    def _sample_shape(self, port: Tensor) -> tuple[int, ...]:
        return port.shape if self.batch is None else port.shape[1:]

    def _settle_batch(self, block: Block) -> None:
        """Whether samples are rows of a call or calls: rows, unless every array says otherwise."""
        whole = all(
            port.name in block and block[port.name].shape[1:] == port.shape for port in self.ports
        )
        sizes = {port.shape[0] if port.shape else 1 for port in self.ports}
        if whole:
            self.batch = None
        elif len(sizes) == 1 and sizes != {0}:
            (self.batch,) = sizes
        else:
            text = "; ".join(map(str, self.ports)) or "none"
            raise error(
                "E0742",
                f"the inputs have no batch axis in common: {text}",
                help="give arrays of shape (samples, *shape of the input), one call each",
            )

    def _look(self) -> None:
        """Find the batch axis in the first block; raises E0741 and E0742."""
        known = self.source.names
        block = next(self.source.blocks([port.name for port in self.ports]), None)
        for port in self.ports:
            if block is not None and port.name not in block:
                raise missing(port, self.source, self._known(block))
            if known is not None and port.name not in known:
                raise missing(port, self.source, known)
        if block is not None:
            self._settle_batch(block)

    def _scan(self) -> Facts:
        self._look()
        contents: dict[str, Any] = {}
        samples = calibration = 0
        labelled: set[bool] = set()
        for block in self.blocks():
            count = len(next(iter(block.values())))
            for name, array in block.items():
                head = f"{name} {array.dtype} {array.shape[1:]} ".encode()
                content = contents.setdefault(name, hashlib.sha256(head))
                content.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
            calibration += int(self.split.mask(samples, count, Part.CALIBRATION).sum())
            samples += count
            self.nans += _with_nan(block, count)
            labelled.add(ROWS in block)
        if not samples:
            raise error("E0746", f"{self.source.name} has no samples", help="--data calib.npz")
        if len(labelled) > 1:
            raise error("E0744", f"only some batches of {self.source.name} have labels")
        held_out = samples - calibration
        whole = " ".join(contents[name].hexdigest() for name in sorted(contents))
        digest = hashlib.sha256(whole.encode()).hexdigest()
        return Facts(samples, calibration, held_out, labelled == {True}, digest)


class PartOfData:
    """One part in batches; what passes and judges walk."""

    def __init__(self, data: Dataset, part: Part) -> None:
        self._data, self._part = data, part

    @cached_property
    def digest(self) -> str:
        """Names the samples, their order and their batches."""
        key = [
            self._data.facts.digest,
            asdict(self._data.split),
            self._part.value,
            self._data.batch,
            *([] if self._data.dropped is None else [self._data.dropped.nonzero()[0].tolist()]),
        ]
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()

    @property
    def samples(self) -> int:
        """How many there are."""
        facts = self._data.facts
        counts = {
            Part.CALIBRATION: facts.calibration,
            Part.HELD_OUT: facts.held_out,
            Part.ALL: facts.calibration + facts.held_out,
        }
        return counts[self._part]

    @property
    def calls(self) -> int:
        """How many batches there are."""
        return -(-self.samples // (self._data.batch or 1))

    @property
    def labelled(self) -> bool:
        """Whether every batch has labels."""
        return self._data.facts.labelled

    def __iter__(self) -> Iterator[Batch]:
        size = self._data.batch or 1
        first: dict[str, Array] = {}
        rest: dict[str, Array] = {}
        for block in self._chosen():
            rest = {
                name: np.concatenate([rest[name], a]) if rest else a for name, a in block.items()
            }
            first = first or {name: array[:size] for name, array in rest.items()}
            count = len(next(iter(rest.values())))
            for start in range(0, count - size + 1, size):
                yield self._batch({n: a[start : start + size] for n, a in rest.items()}, size)
            rest = {name: array[count - count % size :] for name, array in rest.items()}
        valid = len(next(iter(rest.values()), ()))
        if valid:
            yield self._batch({n: _filled(a, first[n], size) for n, a in rest.items()}, valid)

    def _chosen(self) -> Iterator[Block]:
        start = 0
        for block in self._data.blocks():
            count = len(next(iter(block.values())))
            mask = self._data.left(self._data.split.mask(start, count, self._part), start)
            start += count
            if mask.any():
                yield {name: array[mask] for name, array in block.items()}

    def _batch(self, arrays: Mapping[str, Array], valid: int) -> Batch:
        whole = self._data.batch is None
        inputs = {n: a[0] if whole else a for n, a in arrays.items() if n != ROWS}
        return Batch(inputs, valid, self._data.batch, arrays.get(ROWS))


def _with_nan(block: Block, count: int) -> int:
    """How many of the samples have one in an input; -inf may be a mask and is no news."""
    found = np.zeros(count, np.bool_)
    for name, array in block.items():
        if name != ROWS and array.dtype.kind == "f":
            found |= np.isnan(array.reshape(count, -1)).any(axis=1)
    return int(found.sum())


def _filled(rows: Array, first: Array, size: int) -> Array:
    """`rows` followed by the first samples, in turn, up to `size`."""
    return np.concatenate([rows, np.resize(first, (size - len(rows), *first.shape[1:]))])


def missing(port: Tensor, source: Source, known: Sequence[str]) -> OptcError:
    """E0741: the data has no array for an input."""
    near = get_close_matches(port.name, known, 1, 0.4)
    offer = f"; did you mean {near[0]} to be it?" if near else ""
    have = ", ".join(known) or "nothing"
    return error(
        "E0741",
        f"{source.name} has no array for the input {port}; it has {have}{offer}",
        help=f"numpy.savez('calib.npz', **{{'{port.name}': array}})",
    )


Given = str | PathLike[str] | Mapping[str, Any] | Callable[[], Iterable[Any]]


def open_dataset(
    data: Given,
    ports: Sequence[Tensor],
    *,
    labels: str | Labels | None = None,
    split: Split = SPLIT,
    limit: int | None = None,
) -> Dataset:
    """The data that a user names: a `.npz`, a `.npy`, a folder of `.npy`, or `module:function`.

    In Python also arrays by name, or the function itself.
    `labels` is a `.npy` file, `file.npz:name`, or the name of an array in the data; without it, an
    array called `labels` is taken where it is no input. Raises E0740 to E0746.
    """
    beside = labels if isinstance(labels, Labels) else Labels.named(labels)
    return Dataset(_source(data), ports, beside, split, limit)


def _source(data: Given) -> Source:
    if isinstance(data, Mapping):
        return Arrays(data)
    if isinstance(data, str | PathLike):
        path = Path(data)
        is_function = isinstance(data, str) and ":" in data and not path.exists()
        return Function(str(data)) if is_function else Files(path)
    return Function(data)
