"""Which core ATen ops can be captured: the data behind `optc ops` and its contract test.

Core ops are those that torch tags `torch.Tag.core`. Backward, random, in-place and symbolic
ones do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch._ops import OpOverload

from optc.ir.capture import aten
from optc.ir.capture.decompositions import table
from optc.ir.capture.refusal import DATA_DEPENDENT

# Ops without a rule of their own: run while capturing when all they read is known, which for these
# is always.
_MADE_AT_CAPTURE = frozenset({"arange", "scalar_tensor"})
_BACKWARD = "it computes gradients"
_RANDOM = "it draws random numbers"
_SYMBOLIC = "it asks for a shape, which is a number here"
_IN_PLACE = "it changes its operand; torch.export makes graphs functional"


@dataclass(frozen=True, slots=True)
class Coverage:
    """One packet: whether it counts, whether it is supported, and else why not."""

    name: str
    overloads: tuple[str, ...]
    counts: bool
    supported: bool
    reason: str = ""


@cache
def core_packets() -> Mapping[str, tuple[OpOverload, ...]]:
    """Core packets by name, each with its core overloads."""
    # Not dir(torch.ops.aten), which lists what was used so far.
    registered = torch._C._dispatch_get_all_op_names()
    names = {name[6:].partition(".")[0] for name in registered if name.startswith("aten::")}
    found: dict[str, list[OpOverload]] = {}
    for name in names:
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            op = getattr(packet, overload)
            # `atan2.out` carries the tag too; a functional graph has no such calls.
            if torch.Tag.core in op.tags and not overload.endswith("out"):
                found.setdefault(name, []).append(op)
    return {name: tuple(ops) for name, ops in sorted(found.items())}


@cache
def coverage() -> tuple[Coverage, ...]:
    """Every core packet, sorted by name."""
    return tuple(_of(name, ops) for name, ops in core_packets().items())


def _of(name: str, ops: tuple[OpOverload, ...]) -> Coverage:
    overloads = tuple(op._overloadname for op in ops)
    left_out = _left_out(name, ops)
    missing = [op._overloadname for op in ops if not _is_taken(name, op)]
    if not missing:
        return Coverage(name, overloads, not left_out, True, left_out)
    return Coverage(name, overloads, not left_out, False, left_out or _why_not(ops))


def _left_out(name: str, ops: tuple[OpOverload, ...]) -> str:
    if name.endswith("_backward"):
        return _BACKWARD
    if name.startswith("sym_"):
        return _SYMBOLIC
    if name.endswith("_"):
        return _IN_PLACE
    return _RANDOM if torch.Tag.nondeterministic_seeded in ops[0].tags else ""


def _is_taken(name: str, op: OpOverload) -> bool:
    if torch.Tag.nondeterministic_seeded in op.tags and op not in aten.RULES:
        return False
    has_rule = op in aten.RULES or op in aten.COMPLEX_RULES
    return has_rule or name in _MADE_AT_CAPTURE or op in table()


def _why_not(ops: tuple[OpOverload, ...]) -> str:
    tags = set(ops[0].tags)
    if torch.Tag.dynamic_output_shape in tags:
        return DATA_DEPENDENT
    if torch.Tag.data_dependent_output in tags:
        return "it makes a number of the data, which only control flow could use"
    return "there is no rule for it"
