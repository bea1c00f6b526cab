"""How a rule says that it cannot express an op, and the one report of all such ops."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from optc.ir.diagnostics import Diagnostic, Loc, OptcError

DATA_DEPENDENT = "how much it returns depends on the data, and every shape is fixed at compile time"
RANDOM = "it draws random numbers; an artifact gives the same output for the same input"


class Refusal(Exception):
    """A rule's answer: this use of the op has no meaning in the IR, and why."""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """One node that could not be taken."""

    op: str
    reason: str
    loc: Loc


def report(found: Iterable[Unsupported]) -> OptcError:
    """One error that lists every op once: how often, why, and where it is written first."""
    groups: dict[tuple[str, str], list[Unsupported]] = {}
    for item in found:
        groups.setdefault((item.op, item.reason), []).append(item)
    ordered = sorted(groups.items(), key=lambda entry: -len(entry[1]))
    lines = []
    for (op, reason), items in ordered:
        place = next((item.loc for item in items if item.loc), Loc())
        lines.append(f"{op} x {len(items)}: {reason}" + (f"\n    at {place}" if place else ""))
    count = sum(len(items) for items in groups.values())
    loc = next((item.loc for _, items in ordered for item in items if item.loc), Loc())
    nodes = "node is" if count == 1 else "nodes are"
    return OptcError(
        Diagnostic(
            "E0230",
            f"{count} {nodes} not supported, of {len(groups)} kind{'s' * (len(groups) > 1)}",
            loc=loc,
            excerpt="\n".join(lines),
            help="rewrite these lines of the model; `optc ops` lists what is supported",
        )
    )
