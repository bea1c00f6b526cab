"""What a caller gets back: tuples, lists and dictionaries of outputs, as the model returns them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


class Nesting(Enum):
    """The kinds of nesting that survive outside Python's own classes."""

    TUPLE = "tuple"
    LIST = "list"
    DICT = "dict"


@dataclass(frozen=True, slots=True)
class Items:
    """Parts side by side; `keys` are a dictionary's, in order, and empty for the others."""

    nesting: Nesting
    parts: tuple[Structure, ...]
    keys: tuple[str, ...] = ()


Structure: TypeAlias = str | Items | None  # the name of an output, parts, or Python's None


def leaves(structure: Structure) -> Iterator[str]:
    """The names of the outputs, in order."""
    if isinstance(structure, str):
        yield structure
    elif structure is not None:
        for part in structure.parts:
            yield from leaves(part)


def filled(structure: Structure, value: Callable[[str], T]) -> Any:
    """The structure in Python's own objects, with `value(name)` for each output."""
    if structure is None:
        return None
    if isinstance(structure, str):
        return value(structure)
    parts = [filled(part, value) for part in structure.parts]
    match structure.nesting:
        case Nesting.TUPLE:
            return tuple(parts)
        case Nesting.LIST:
            return parts
        case Nesting.DICT:
            return dict(zip(structure.keys, parts, strict=True))


def tree(structure: Structure, index: Callable[[str], int]) -> Any:
    """The structure as plain data: outputs by index, `{"tuple": [...]}`, `{"dict": {...}}`."""
    if structure is None:
        return None
    if isinstance(structure, str):
        return index(structure)
    parts = [tree(part, index) for part in structure.parts]
    named = structure.nesting is Nesting.DICT
    return {
        structure.nesting.value: dict(zip(structure.keys, parts, strict=True)) if named else parts
    }
