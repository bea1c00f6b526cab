"""Samples out of a Python function: `--data module:function`.

The function takes nothing and returns an iterable of batches: dictionaries by input name, or tuples
in the order of the inputs; a tuple may end with the labels. It is called again for every walk, so
it must give the same batches each time.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optc.data.source import Array, Block, Source
from optc.ir.diagnostics import OptcError, error

LABELS = "labels"  # what the last part of a tuple is called


class Function(Source):
    """The batches that a function yields, given itself or as `module:function`."""

    def __init__(self, place: str | Callable[[], Iterable[Any]]) -> None:
        self.function = find_function(place) if isinstance(place, str) else place
        own = getattr(place, "__qualname__", type(place).__name__)
        self.place = place if isinstance(place, str) else own

    @property
    def name(self) -> str:
        """`module:function`."""
        return self.place

    def blocks(self, inputs: Sequence[str], more: Collection[str] = ()) -> Iterator[Block]:
        """Batches as they come; raises E0743 for what the function raises, E0742 for its shapes."""
        walk = iter(self._guarded(lambda: iter(self.function())))
        for number in range(sys.maxsize):
            item = self._guarded(lambda: next(walk, None))
            if item is None:
                return
            yield self._block(item, number, inputs, more)

    def _block(
        self, item: object, number: int, inputs: Sequence[str], more: Collection[str]
    ) -> Block:
        named = self._named(item, inputs, number)
        wanted = {*inputs, *more}
        arrays = {name: self._array(part) for name, part in named.items() if name in wanted}
        if any(array.ndim == 0 for array in arrays.values()):
            raise error("E0742", f"batch {number} of {self.place} has a number without an axis")
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            text = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise error("E0742", f"batch {number} of {self.place} differs in samples: {text}")
        return arrays

    def _named(self, item: object, inputs: Sequence[str], number: int) -> Mapping[str, Any]:
        if isinstance(item, Mapping):
            return {str(name): part for name, part in item.items()}
        parts = tuple(item) if isinstance(item, tuple | list) else (item,)
        if not len(inputs) <= len(parts) <= len(inputs) + 1:
            expected = f"{', '.join(inputs)}, and labels if there are any"
            raise error(
                "E0741",
                f"batch {number} of {self.place} has {len(parts)} parts, expected {expected}",
                help="yield (x, labels), or {'x': x}",
            )
        return dict(zip((*inputs, LABELS), parts, strict=False))

    def _array(self, part: Any) -> Array:
        array: Array = self._guarded(lambda: np.asarray(part))
        return array

    def _guarded(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except OptcError:
            raise
        except Exception as problem:
            raise failed(self.place, problem) from problem


def find_function(place: str) -> Callable[..., Iterable[Any]]:
    """The function that `module:function` names; the working folder's modules are found too.

    Raises E0740 when there is none, E0743 when importing it fails.
    """
    module, _, name = place.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except ImportError as problem:
        raise error(
            "E0740", f"cannot import {module!r}: {problem}", help="module:function"
        ) from None
    except Exception as problem:
        raise failed(place, problem) from problem
    function = getattr(found, name, None)
    if not callable(function):
        raise error("E0740", f"{module} has no function {name!r}", help="module:function")
    return function  # type: ignore[no-any-return]


def failed(place: str, problem: Exception) -> OptcError:
    """E0743: what the user's code raised, and at which of its lines."""
    steps = traceback.extract_tb(problem.__traceback__)
    own = Path(__file__).parent
    line = next((step for step in reversed(steps) if own not in Path(step.filename).parents), None)
    where = f" at {line.filename}:{line.lineno}" if line is not None else ""
    text = (str(problem) or "nothing said").splitlines()[0]
    return error("E0743", f"{place} raised {type(problem).__name__}: {text}{where}")
