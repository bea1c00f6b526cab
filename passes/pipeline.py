"""Pipelines as text: `fold-batch-norm,prune-channels{ratio=0.3}`; and a pipeline is a pass."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from types import UnionType

from optc.ir.diagnostics import error
from optc.ir.module import Module
from optc.passes.base import Effect, Pass, PassContext, run_passes
from optc.passes.catalogue import find_pass

_STEP = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:\{([^{}]*)\})?\s*(,|$)")


@dataclass(frozen=True)
class Pipeline(Pass):
    """Passes in order."""

    name = "pipeline"
    effect = Effect.EXACT  # of no passes; those it has carry their own, and are dropped by them
    composite = True
    passes: tuple[Pass, ...] = ()

    @property
    def saves_bytes(self) -> bool:
        """Whether one of them is told to."""
        return any(step.saves_bytes for step in self.passes)

    def run(self, module: Module, ctx: PassContext) -> Module:
        """Run each pass, verifying after each."""
        return run_passes(module, self.passes, ctx)

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

    @staticmethod
    def parse(text: str) -> Pipeline:
        """Read a pipeline; raises E0130 (unknown pass), E0132 (option) or E0133 (syntax)."""
        return Pipeline(tuple(_steps(text)))


def _steps(text: str) -> Iterator[Pass]:
    position = 0
    while position < len(text):
        found = _STEP.match(text, position)
        if found is None or (found.end() == len(text) and found.group(3) == ","):
            raise error(
                "E0133",
                f"cannot read the pipeline at {text[position:][:40]!r}",
                help="-p 'fold-batch-norm,prune-channels{ratio=0.3}'",
            )
        yield make_pass(found.group(1), _options(found.group(2) or ""))
        position = found.end()


def _options(text: str) -> dict[str, str]:
    pieces = [piece for piece in re.split(r",(?![^()]*\))", text) if piece.strip()]
    return {key.strip(): value.strip() for key, _, value in (p.partition("=") for p in pieces)}


def make_pass(name: str, options: dict[str, str]) -> Pass:
    """A pass from its name and its options' spellings; raises E0130 or E0132."""
    cls = find_pass(name)
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    values: dict[str, object] = {}
    for key, text in options.items():
        field = key.replace("-", "_")
        if field not in known:
            near = get_close_matches(field, known, 1, 0.4)
            hint = f"{name}{{{near[0]}=...}}" if near else f"optc passes {name}"
            raise error("E0132", f"{name} has no option {key!r}", help=hint)
        try:
            values[field] = _value(text, hints[field])
        except ValueError:
            wanted = getattr(hints[field], "__name__", str(hints[field]))
            message = f"{name}: option {key} takes {wanted}, not {text!r}"
            raise error("E0132", message, help=f"optc passes {name}") from None
    try:
        return cls(**values)
    except ValueError as problem:
        raise error("E0132", f"{name}: {problem}", help=f"optc passes {name}") from None


def _value(text: str, wanted: object) -> object:
    if typing.get_origin(wanted) in (typing.Union, UnionType):
        if text == "none":
            return None
        return _value(text, next(o for o in typing.get_args(wanted) if o is not type(None)))
    if typing.get_origin(wanted) is tuple:
        inner = typing.get_args(wanted)[0]
        pieces = text.strip("()").split(",")
        return tuple(_value(piece.strip(), inner) for piece in pieces if piece.strip())
    if wanted is bool:
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    if isinstance(wanted, type) and issubclass(wanted, Enum | int | float):
        if wanted is float and text.endswith("%"):
            return float(text[:-1]) / 100
        return wanted(text)
    return text.strip('"')
