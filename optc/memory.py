"""`--memory`: whether an artifact fits a budget, what makes it fit, and what is in the way.

A budget covers all that a process takes which does nothing but run the model: arena, states,
weights, inputs and outputs, code, and a C program around it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optc.backends.aot.stream_plan import Needs, needs_of, process_bytes, stream
from optc.backends.program import Held, Program
from optc.ir.diagnostics import error
from optc.report.numbers import bytes_text

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_SCALE = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
CULPRITS = 3  # values that a diagnostic names


def parse_size(text: str) -> int:
    """Bytes of `64MB` (powers of 1000), `64MiB` (of 1024) or `65536`; raises E0703."""
    found = _SIZE.fullmatch(text)
    size = 0
    if found:
        number, unit, binary = found.groups()
        size = int(float(number) * (1024 if binary else 1000) ** _SCALE[unit.lower()])
    if size <= 0:
        raise error("E0703", f"{text!r} is no size of memory", help="--memory 64MB")
    return size


@dataclass(frozen=True, slots=True)
class Fit:
    """The word on a budget: what is needed with weights mapped, and what the artifact needs now."""

    budget: int
    mapped: int
    needed: int
    streamed: bool

    @property
    def verdict(self) -> str:
        """For the closing table."""
        spare = bytes_text(self.budget - self.needed)
        if not self.streamed:
            return f"fits: {bytes_text(self.needed)} with process and code, {spare} to spare"
        return (
            f"fits: {bytes_text(self.needed)} with process and code, weights streamed; "
            f"mapped it would be {bytes_text(self.mapped)}"
        )


def fitted(program: Program, budget: int) -> tuple[Program, Fit]:
    """The program within `budget` bytes, its weights streamed where that is needed.

    Raises E0530 with the least that is possible, and what sets it.
    """
    process = process_bytes(program)
    mapped = program.peak_bytes + process
    if program.device is not None:
        if program.peak_bytes <= budget:
            return program, Fit(budget, program.peak_bytes, program.peak_bytes, streamed=False)
        raise _too_small(
            program,
            budget,
            program.peak_bytes,
            "weights for a GPU cannot be streamed: they lie in its memory before the first kernel",
        )
    if mapped <= budget:
        return program, Fit(budget, mapped, mapped, streamed=False)
    needs = needs_of(program)
    if needs.least + process > budget:
        raise _too_small(program, budget, needs.least + process, *_largest_block(needs))
    result = stream(needs, budget - process - needs.fixed_bytes)
    return result, Fit(budget, mapped, result.peak_bytes + process, streamed=True)


def check_fits(manifest: Mapping[str, Any], budget: int) -> None:
    """Raise E0531 where an artifact needs more than `budget` bytes."""
    on_gpu = "gpu" in manifest["target"]
    needed = int(manifest["peak_bytes"]) + (0 if on_gpu else int(manifest.get("process_bytes", 0)))
    if needed > budget:
        over = bytes_text(needed - budget)
        raise error(
            "E0531",
            f"{manifest['name']} needs {bytes_text(needed)}, {over} more than {bytes_text(budget)}",
            help=f"optc compile model.pt2 -o out/ --memory {budget}",
        )


def _largest_block(needs: Needs) -> tuple[str, ...]:
    if not needs.largest:
        return ()
    return (
        f"the largest weights of one call are {bytes_text(needs.largest)}, of {needs.culprit}; "
        "fewer bits, or prune-channels, make them smaller",
    )


def _too_small(program: Program, budget: int, least: int, *reasons: str) -> Exception:
    lines = [
        f"{program.name} needs at least {bytes_text(least)}, {bytes_text(least - budget)} more "
        f"than {bytes_text(budget)}",
        *reasons,
        *_arena(program),
    ]
    rounded = -(-least // 1_000_000)
    return error("E0530", "; ".join(lines), help=f"--memory {rounded}MB")


def _arena(program: Program) -> Sequence[str]:
    rest = (
        f"inputs and outputs {bytes_text(program.port_bytes)}, process and code "
        f"{bytes_text(process_bytes(program))}"
    )
    values = culprits(program.held)
    if not values:
        return (rest,)
    listed = ", ".join(f"{bytes_text(v.nbytes)} of {v.name}" for v in values[:CULPRITS])
    taken = f"activations take {bytes_text(program.arena_bytes)}, at their peak {listed}"
    return (taken, rest)


def culprits(held: Sequence[Held]) -> list[Held]:
    """What is held at the step where most bytes are, the largest first."""
    steps = {value.first for value in held}
    alive = {step: [v for v in held if v.first <= step <= v.last] for step in steps}
    worst = max(alive.values(), key=lambda values: sum(v.nbytes for v in values), default=[])
    return sorted(worst, key=lambda value: -value.nbytes)
