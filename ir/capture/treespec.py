"""Names of inputs and outputs from the nested structure that a model takes and returns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.utils import _pytree as pytree

from optc.ir.structure import Items, Nesting, Structure

_UNFIT = re.compile(r"[^A-Za-z0-9_.]+")
_PLAIN = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


def plain_spec(text: str, namedtuples: Mapping[str, Any]) -> str:
    """A serialised structure with user classes as dicts of their fields.

    torch wants such classes registered when a file is read, and imports modules to find enum keys;
    their field names are all that is needed here.
    """
    protocol, root = json.loads(text)
    return json.dumps([protocol, _plain(root, namedtuples)])


def _plain(spec: dict[str, Any], namedtuples: Mapping[str, Any]) -> dict[str, Any]:
    children = [_plain(child, namedtuples) for child in spec["children_spec"]]
    kind, context = spec["type"], spec["context"]
    if kind is None and not children:
        return spec
    keys = _keys(context, len(children))
    if kind in _PLAIN[:2]:
        return {"type": kind, "context": "null", "children_spec": children}
    if kind == "collections.namedtuple" and isinstance(context, str):
        name = context.strip('"')
        fields = namedtuples.get(name) or {}
        found = fields.get("field_names") if isinstance(fields, dict) else None
        keys = list(found) if found and len(found) == len(children) else keys
    return {"type": "builtins.dict", "context": json.dumps(keys), "children_spec": children}


def _keys(context: str | None, count: int) -> list[str]:
    """Field names in a structure's context: the list of them lies at some depth, by class."""
    try:
        item = json.loads(context) if isinstance(context, str) else None
    except json.JSONDecodeError:
        item = None
    stack = [item]
    while stack:
        item = stack.pop(0)
        if isinstance(item, list):
            if len(item) == count and all(isinstance(key, str | int | dict) for key in item):
                names = [key.get("name", "") if isinstance(key, dict) else str(key) for key in item]
                if len(set(names)) == count:
                    return names
            stack += item
    return [str(index) for index in range(count)]


def input_names(in_spec: pytree.TreeSpec, arguments: Sequence[str]) -> tuple[str, ...]:
    """A dotted name per leaf of (args, kwargs): `batch.input_ids`, `cache.0`."""
    paths = _paths(in_spec)
    names = []
    for path in paths:
        part, rest = path[0], path[1:]
        if part == "0":
            place = int(rest[0])
            first = arguments[place] if place < len(arguments) else f"input.{place}"
            rest = (first, *rest[1:])
        names.append(_joined(rest))
    return tuple(names)


def output_names(out_spec: pytree.TreeSpec) -> tuple[str, ...]:
    """A name per leaf: dictionary keys and field names; `output` alone, `output.0` in a tuple."""
    if out_spec.is_leaf():
        return ("output",)
    named = not _is_sequence(out_spec)
    return tuple(_joined(path if named else ("output", *path)) for path in _paths(out_spec))


def structure_of(out_spec: pytree.TreeSpec, names: Iterator[str | None]) -> Structure:
    """The structure of the outputs with a name per leaf, None where a leaf is no tensor.

    What is no tuple or list becomes a dictionary: of its keys, or of its fields. The answer is None
    where it says no more than "the only output, or a tuple".
    """
    found = _structure(out_spec, names)
    plain = (
        isinstance(found, Items)
        and found.nesting is Nesting.TUPLE
        and len(found.parts) > 1
        and all(isinstance(part, str) for part in found.parts)
    )
    return None if plain or isinstance(found, str) else found


def _structure(spec: pytree.TreeSpec, names: Iterator[str | None]) -> Structure:
    if spec.is_leaf():
        return next(names)
    children = spec.children()
    parts = tuple(_structure(child, names) for child in children)
    if _is_sequence(spec):
        return Items(Nesting.TUPLE if spec.type is tuple else Nesting.LIST, parts)
    return Items(Nesting.DICT, parts, tuple(_child_keys(spec, len(children))))


def _is_sequence(spec: pytree.TreeSpec) -> bool:
    return spec.type in (tuple, list)


def _paths(spec: pytree.TreeSpec) -> list[tuple[str, ...]]:
    if spec.is_leaf():
        return [()]
    children = spec.children()
    keys = _child_keys(spec, len(children))
    return [
        (key, *path) for key, child in zip(keys, children, strict=True) for path in _paths(child)
    ]


def _child_keys(spec: pytree.TreeSpec, count: int) -> list[str]:
    # A named tuple's class is the context, as torch sees it.
    fields = getattr(spec.context, "_fields", None)
    if fields is not None and len(fields) == count:
        return list(fields)
    if not _is_sequence(spec):
        context = spec.context
        candidates = [context, *context] if isinstance(context, list | tuple) else [context]
        for item in candidates:
            is_row = isinstance(item, list | tuple) and len(item) == count
            # A dataclass has a list of names and one of empty fields: rows of rows are not names.
            if is_row and not any(isinstance(key, list | tuple) for key in item):
                return [str(getattr(key, "name", key)) for key in item]
    return [str(index) for index in range(count)]


def _joined(path: Sequence[str]) -> str:
    text = ".".join(_UNFIT.sub("_", part) for part in path)
    return text if re.match(r"[A-Za-z_]", text) else f"_{text}"
