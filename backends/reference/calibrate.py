"""The calibration service: a module's values on the user's data, streamed, answered once.

Answers are kept by the digests of module and data and the question, so a pipeline that runs again,
or a second pass that asks the same, does not run the model again. Features may be large: they are
kept until the service goes away.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.backends.reference.calls import calls_at_once, chunks, see_calls
from optc.backends.reference.gradients import Loss, joint_scores, scores
from optc.backends.reference.spread import Spread
from optc.backends.reference.walk import ReferenceWalk
from optc.ir.diagnostics import error
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.module import Module, Run
from optc.ir.output import replace_file
from optc.ir.structural import module_digest
from optc.passes.calibration import Array, Batch, Batches, Importance, Statistics, spread_calls

FORMAT = 1  # of the kept answers


class ReferenceCalibration:
    """Answers questions of `optc.passes.calibration.Calibration` by running modules with torch.

    `folder` is where answers are kept; without it they live as long as this object, as features do.
    """

    def __init__(self, batches: Batches, loss: Loss, folder: Path | None = None) -> None:
        self._batches, self._loss = batches, loss
        self._own = tempfile.TemporaryDirectory(prefix="optc-")
        self._folder = folder or Path(self._own.name)

    @property
    def digest(self) -> str:
        """Names the data."""
        return self._batches.digest

    @property
    def batches(self) -> Batches:
        """The calibration part."""
        return self._batches

    def visit(
        self,
        module: Module,
        values: Collection[Value],
        see: Callable[[Mapping[Value, Array]], None],
        calls: int = 0,
    ) -> None:
        """Show the values of calls; those of bf16 widened to f32."""
        for found in self._seen(module, values, self._some(calls)):
            for call in range(len(next(iter(found.values()), ()))):
                see({value: array[call] for value, array in found.items()})

    def walk(
        self, module: Module, keep: Collection[Value] = (), calls: int | Collection[int] = 0
    ) -> ReferenceWalk | None:
        """Calls are spread evenly, as data is often sorted."""
        steps = module.flow.steps
        if len(steps) != 1 or not isinstance(steps[0], Run):
            return None
        total = self._batches.calls
        chosen = set(spread_calls(total, calls) if isinstance(calls, int) else calls)
        batches = (batch for number, batch in enumerate(self._batches) if number in chosen)
        return ReferenceWalk(module, batches, len(chosen), keep)

    def _some(self, calls: int) -> Iterator[Batch]:
        chosen = set(spread_calls(self._batches.calls, calls))
        return (batch for number, batch in enumerate(self._batches) if number in chosen)

    def statistics(
        self, module: Module, values: Collection[Value], channel: Mapping[Value, int] | None = None
    ) -> Mapping[Value, Statistics]:
        """One walk over the data for all values that have no kept answer."""
        axes = channel or {}
        places = _places(module)
        question = {v: f"statistics {places[v]} {axes.get(v)}" for v in values}
        keys = self._keys(module, question)
        missing = [v for v in values if not keys[v].exists()]
        if missing:
            # Calls are an axis in front of a value's own.
            spreads = {v: Spread(axes[v] + 1 if v in axes else None) for v in missing}
            for found in self._seen(module, missing, self._batches):
                for value, array in found.items():
                    spreads[value].add(array)
            for value, spread in spreads.items():
                whole = _shown(value, spread)
                self._keep(keys[value], {f.name: getattr(whole, f.name) for f in fields(whole)})
        return {value: _statistics(keys[value]) for value in values}

    def importance(
        self, module: Module, constants: Collection[Value], kind: Importance = Importance.FIRST
    ) -> Mapping[Value, NDArray[np.float32]]:
        """One walk over the data for all constants that have no kept answer."""
        places = _places(module)
        question = {v: f"importance {places[v]} {kind.value} {self._loss}" for v in constants}
        keys = self._keys(module, question)
        missing = [value for value in constants if not keys[value].exists()]
        if missing:
            for value, found in scores(module, self._batches, missing, kind, self._loss).items():
                self._keep(keys[value], {"scores": found})
        return {value: _load(keys[value])["scores"] for value in constants}

    def joint_importance(
        self, module: Module, sets: Mapping[tuple[Value, int], NDArray[np.int64]]
    ) -> NDArray[np.float64]:
        """One walk over the data, unless the same sets were asked for before."""
        places = _places(module)
        content = hashlib.sha256()
        for (value, axis), numbers in sets.items():
            content.update(f"{places[value]} {axis} {numbers.tolist()}\n".encode())
        question = f"joint importance {content.hexdigest()} {self._loss}"
        key = self._key(module_digest(module), question)
        if not key.exists():
            self._keep(key, {"scores": joint_scores(module, self._batches, sets, self._loss)})
        found: NDArray[np.float64] = _load(key)["scores"]
        return found

    def features(
        self, module: Module, values: Collection[Value], calls: int | None = None
    ) -> Mapping[Value, Array]:
        """Written call by call into files, which are mapped."""
        count = min(calls or self._batches.calls, self._batches.calls)
        places = _places(module)
        question = {value: f"features {places[value]} {count}" for value in values}
        own = Path(self._own.name)
        paths = {v: own / f"{key.stem}.npy" for v, key in self._keys(module, question).items()}
        missing = [value for value in values if not paths[value].exists()]
        if missing:
            self._write_features(module, missing, paths, count)
        return {value: np.load(path, mmap_mode="r") for value, path in paths.items()}

    def _write_features(
        self, module: Module, values: Collection[Value], paths: Mapping[Value, Path], count: int
    ) -> None:
        with tempfile.TemporaryDirectory(dir=self._own.name) as aside:
            files = {
                value: np.lib.format.open_memmap(
                    Path(aside, str(index)), "w+", _plain(value), (count, *value.shape)
                )
                for index, value in enumerate(values)
            }
            done = 0
            for found in self._seen(module, values, islice(self._batches, count)):
                for value, array in found.items():
                    files[value][done : done + len(array)] = array
                done += len(next(iter(found.values())))
            for index, (value, file) in enumerate(files.items()):
                file.flush()
                Path(aside, str(index)).replace(paths[value])

    def _seen(
        self, module: Module, values: Collection[Value], batches: Iterable[Batch]
    ) -> Iterator[Mapping[Value, Array]]:
        """Values as [calls, *shape], some calls at a time; those of bf16 widened to f32."""
        for chunk in chunks(batches, calls_at_once(module.graphs)):
            yield _values(module, [batch.inputs for batch in chunk], values)

    def labels(self, calls: int | None = None) -> Array | None:
        """The labels of the first calls, stacked."""
        if not self._batches.labelled:
            return None
        return np.stack([b.labels for b in islice(self._batches, calls) if b.labels is not None])

    def _keys(self, module: Module, questions: Mapping[Value, str]) -> Mapping[Value, Path]:
        digest = module_digest(module)
        return {value: self._key(digest, question) for value, question in questions.items()}

    def _key(self, module: str, question: str) -> Path:
        return self._folder / f"{_hash(f'{FORMAT} {module} {self.digest} {question}')}.npz"

    def _keep(self, path: Path, arrays: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as aside, aside.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


def _values(
    module: Module, calls: Sequence[Mapping[str, Array]], values: Collection[Value]
) -> Mapping[Value, Array]:
    seen: dict[Value, Array] = {}

    def see(value: Value, array: Array) -> None:
        wide = value.type.dtype is DType.BF16
        seen[value] = (array.astype(np.uint32) << 16).view(np.float32) if wide else array

    see_calls(module, calls, values, see)
    return seen


def _plain(value: Value) -> np.dtype[Any]:
    bf16 = value.type.dtype is DType.BF16
    return np.dtype(np.float32) if bf16 else np.dtype(value.type.dtype.storage)


def _shown(value: Value, spread: Spread) -> Statistics:
    """What was found of a value; raises E0757 where none of it was finite."""
    try:
        return spread.statistics()
    except ValueError:
        raise error(
            "E0757",
            f"on every calibration sample {value.hint or 'a value'} is NaN or infinite throughout: "
            "no range can be learnt from that",
            help="numpy.isfinite(array).all() of each array in the calibration samples",
        ) from None


def _places(module: Module) -> Mapping[Value, str]:
    """Names of values that are the same for modules of one digest."""
    places: dict[Value, str] = {}
    for number, graph in enumerate(module.graphs):
        for index, value in enumerate(graph.inputs):
            places[value] = f"{number}.input.{index}"
        for index, node in enumerate(graph.nodes):
            for slot, value in enumerate(node.inputs):
                places.setdefault(value, f"{number}.{index}.in.{slot}")
            for slot, value in enumerate(node.outputs):
                places[value] = f"{number}.{index}.{slot}"
    return places


def _statistics(path: Path) -> Statistics:
    found = dict(_load(path))
    reach = float(found.pop("reach"))
    return Statistics(**found, reach=reach)


def _load(path: Path) -> Mapping[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:40]
