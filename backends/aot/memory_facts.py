"""What an artifact says of its memory: what lies where from which step to which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from optc.backends.program import Program


def describe_memory(program: Program) -> dict[str, Any]:
    """Held bytes of the arena, names of steps, and the weights' window where they are streamed.

    A block of the window is used at `step`; `ahead` is the step with which it may be read at the
    earliest, as what lay in its place is given up then.
    """
    return {
        "held": [asdict(item) for item in program.held],
        "steps": list(program.steps),
        "window": list(_window(program)),
    }


def _window(program: Program) -> Iterator[dict[str, int]]:
    plan = program.stream
    if plan is None:
        return
    times = iter(t for t, name in enumerate(program.steps) if not name.startswith("exit "))
    last: list[tuple[int, int, int]] = []  # begin, end, step of what lay there
    for segment in program.segments:
        blocks = {block.call: block for block in plan.blocks.get(segment.name, ())}
        for number, step in zip(range(len(segment.calls)), times, strict=False):
            block = blocks.get(number)
            if block is None:
                continue
            end = block.at + block.nbytes
            ahead = max((t + 1 for a, b, t in last if a < end and block.at < b), default=0)
            last = [(a, b, t) for a, b, t in last if a < block.at or b > end]
            last.append((block.at, end, step))
            yield {"step": step, "ahead": ahead, "at": block.at, "bytes": block.nbytes}
