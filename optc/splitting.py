"""Which layers are cut so that a budget of memory holds: tried out on the program, not estimated.

What is left for weights beside activations, workspaces, ports and code is known when kernels are
built and laid out, and cutting a layer changes it. So the program is made with whole layers first;
if the largest of these does not fit into what is left, they are cut to that, and again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optc.backends.aot.stream_plan import needs_of, process_bytes
from optc.backends.program import Program
from optc.passes.memory.split_weights import SplitWeights

TRIES = 4
PARTS = 8  # a layer is cut into in one try, where there is room for less
LITTLE = 16  # of what is needed, one part is the window: smaller parts would hardly help


@dataclass(frozen=True, slots=True)
class Attempt:
    """A way to cut, the least that a process takes which runs it, and what is left for weights."""

    split: SplitWeights
    least: int
    left: int


def splitting(budget: int, made: Callable[[SplitWeights], Program]) -> SplitWeights:
    """The coarsest cut found whose program fits into `budget` bytes, else the one nearest to it.

    `made` is the program for a way to cut.
    """
    tried: list[Attempt] = []
    split = SplitWeights()
    while len(tried) < TRIES:
        program = made(split)
        needs, process = needs_of(program), process_bytes(program)
        left = budget - process - needs.fixed_bytes
        tried.append(Attempt(split, min(needs.least + process, process + program.peak_bytes), left))
        if tried[-1].least <= budget or program.device is not None:
            return split
        window = max(left, needs.largest // PARTS)
        if needs.largest * LITTLE <= tried[-1].least or (split.room and window >= split.room):
            break
        split = SplitWeights(window)
    return min(tried, key=lambda attempt: attempt.least).split
