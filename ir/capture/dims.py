"""Dynamic dimensions: what they are called, what they may be, and the numbers that fix them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram

from optc.ir.capture.refusal import DATA_DEPENDENT, Refusal
from optc.ir.diagnostics import OptcError, error

Assignment = Mapping[sympy.Symbol, int]
_ANONYMOUS = re.compile(r"^_?[suz]\d+$")
# An archive keeps no names of dimensions; these are what people call them, by axis and rank.
_CUSTOM = {(0, None): "batch", (1, 2): "seq", (1, 3): "seq", (2, 4): "height", (3, 4): "width"}


@dataclass(frozen=True, slots=True)
class Dimension:
    """One free dimension: the name to type, other names it answers to, and its range."""

    symbol: sympy.Symbol
    name: str
    aliases: tuple[str, ...]
    low: int
    high: int | None
    places: tuple[tuple[str, int], ...]  # (input, axis); axis -1 for an input that is an integer

    def __str__(self) -> str:
        limits = f"{self.low} to {self.high}" if self.high is not None else f"{self.low} or more"
        where = ", ".join(
            f"axis {axis} of {name}" if axis >= 0 else name for name, axis in self.places
        )
        return f"{self.name}: {limits} ({where})"


def dimensions(program: ExportedProgram, inputs: Sequence[tuple[str, Any]]) -> list[Dimension]:
    """The free dimensions of a program's inputs, given as (name, fake tensor or number)."""
    places: dict[sympy.Symbol, list[tuple[str, int]]] = {}
    conventions: dict[sympy.Symbol, set[str]] = {}
    for name, value in inputs:
        rank = value.dim() if isinstance(value, torch.Tensor) else 0
        sizes = enumerate(value.shape) if isinstance(value, torch.Tensor) else [(-1, value)]
        for axis, size in sizes:
            for symbol in sorted(_expression(size).free_symbols, key=str):
                places.setdefault(symbol, []).append((name, axis))
                usual = _CUSTOM.get((axis, None)) or _CUSTOM.get((axis, rank))
                conventions.setdefault(symbol, set()).update([usual] if usual else [])
    known = _given_names(program)
    return [
        _dimension(program, symbol, where, known, conventions) for symbol, where in places.items()
    ]


def _dimension(
    program: ExportedProgram,
    symbol: sympy.Symbol,
    places: list[tuple[str, int]],
    known: Mapping[sympy.Symbol, str],
    conventions: Mapping[sympy.Symbol, set[str]],
) -> Dimension:
    exact = [f"{name}.{axis}" if axis >= 0 else name for name, axis in places]
    usual = [
        name
        for name in sorted(conventions[symbol])
        if name not in known.values() and sum(name in names for names in conventions.values()) == 1
    ]
    names = [*([known[symbol]] if symbol in known else []), *usual, *exact, str(symbol)]
    low, high = _range(program, symbol)
    return Dimension(symbol, names[0], tuple(names[1:]), low, high, tuple(places))


def _range(program: ExportedProgram, symbol: sympy.Symbol) -> tuple[int, int | None]:
    limits = program.range_constraints.get(symbol)
    low = int(limits.lower) if limits is not None and limits.lower.is_Integer else 0
    high = int(limits.upper) if limits is not None and limits.upper.is_Integer else None
    return max(low, 0), None if high is not None and high >= 1 << 62 else high


def _environment(program: ExportedProgram) -> Any:
    """torch's record of the symbols of a program, or None when it has no tensors."""
    modes = (getattr(node.meta.get("val"), "fake_mode", None) for node in program.graph.nodes)
    return next((mode.shape_env for mode in modes if mode is not None), None)


def forget_derived_ranges(program: ExportedProgram) -> None:
    """Drop the ranges that a loaded program records for expressions such as 2*n.

    `run_decompositions` of torch 2.13 fails on them; those of n itself say the same.
    """
    environment = _environment(program)
    if environment is None:
        return
    derived = [key for key in environment.var_to_range if not isinstance(key, sympy.Symbol)]
    for key in derived:
        del environment.var_to_range[key]


def _given_names(program: ExportedProgram) -> dict[sympy.Symbol, str]:
    """Names given with `torch.export.Dim`, which only a program that was never saved has."""
    environment = _environment(program)
    if environment is None:
        return {}
    names: dict[sympy.Symbol, str] = {}
    for symbol, sources in environment.var_to_sources.items():
        for source in sources:
            place = source.name() if callable(source.name) else source.name
            name = environment.source_name_to_debug_name.get(place, "")
            target = environment.replace(symbol)
            if (
                isinstance(target, sympy.Symbol)
                and name.isidentifier()
                and not _ANONYMOUS.match(name)
            ):
                names[target] = name
    return names


def assign(dims: Sequence[Dimension], shapes: Mapping[str, int] | None) -> Assignment:
    """The number for each dimension; raises E0210 (missing), E0211 (unknown), E0212 (range)."""
    given = dict(shapes or {})
    result: dict[sympy.Symbol, int] = {}
    by_name = {name: dim for dim in reversed(dims) for name in (*reversed(dim.aliases), dim.name)}
    for name, number in given.items():
        dim = by_name.get(name)
        if dim is None:
            raise _unknown(name, dims, list(by_name))
        above = dim.high is not None and number > dim.high
        if number < dim.low or above or result.get(dim.symbol, number) != number:
            raise error(
                "E0212",
                f"dimension {name} cannot be {number}; it is {dim}",
                help="export the model again with another range, or choose a number within it",
            )
        result[dim.symbol] = number
    missing = [dim for dim in dims if dim.symbol not in result]
    if missing:
        raise _missing(missing, given)
    return result


def _missing(missing: Sequence[Dimension], given: Mapping[str, int]) -> OptcError:
    chosen = [f"{name}={number}" for name, number in given.items()]
    chosen += [f"{dim.name}={_example(dim)}" for dim in missing]
    return error(
        "E0210",
        f"the model has dynamic dimensions without a number: {', '.join(d.name for d in missing)}",
        excerpt="\n".join(map(str, missing)),
        help=f"--shape {','.join(chosen)}",
    )


def _example(dim: Dimension) -> int:
    usual = 1 if dim.name == "batch" else 128
    return max(dim.low, usual if dim.high is None else min(usual, dim.high))


def _unknown(name: str, dims: Sequence[Dimension], names: list[str]) -> OptcError:
    if not dims:
        return error(
            "E0211",
            f"the model has no dynamic dimension, so there is no {name} to fix",
            help="leave --shape out",
        )
    near = get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "its dimensions are listed above"
    return error(
        "E0211",
        f"the model has no dimension {name}",
        excerpt="\n".join(map(str, dims)),
        help=hint,
    )


def _expression(size: object) -> sympy.Expr:
    if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
        return size.node.expr
    return sympy.Integer(size) if isinstance(size, int) else sympy.Integer(0)


def number_of(size: object, assignment: Assignment) -> int:
    """A dimension as a number; raises Refusal when only the data decides it."""
    if isinstance(size, int):
        return size
    # A lone symbol is replaced by a Python int, which has no free symbols.
    value = sympy.sympify(_expression(size).xreplace(dict(assignment)))
    if value.free_symbols:
        raise Refusal(DATA_DEPENDENT)
    return int(value)
