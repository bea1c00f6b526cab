"""Judges a memory plan, knowing nothing of how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Lived(Protocol):
    """A value with a size that keeps its bytes from its first to its last step."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""

    @property
    def first(self) -> int:
        """The step that writes it."""

    @property
    def last(self) -> int:
        """The last step that reads it."""


def check_plan(
    values: Sequence[Lived], offsets: Sequence[int], nbytes: int, alignment: int = 64
) -> list[str]:
    """What is wrong with `offsets` in an arena of `nbytes`, one sentence each.

    Sweeps over the steps and keeps the living values; each newcomer is compared with all of them.
    """
    if len(values) != len(offsets):
        return [f"{len(offsets)} offsets for {len(values)} values"]
    problems: list[str] = []
    for index, (value, offset) in enumerate(zip(values, offsets, strict=True)):
        if offset < 0 or offset + value.nbytes > nbytes:
            problems.append(
                f"value {index} at {offset}..{offset + value.nbytes} is outside of {nbytes} bytes"
            )
        if offset % alignment:
            problems.append(f"value {index} at {offset} is not aligned to {alignment}")
    alive: list[int] = []
    for index in sorted(range(len(values)), key=lambda index: values[index].first):
        value = values[index]
        alive = [other for other in alive if values[other].last >= value.first]
        problems += [
            f"values {other} and {index} are alive together and overlap"
            for other in alive
            if _overlap(offsets[index], value.nbytes, offsets[other], values[other].nbytes)
        ]
        alive.append(index)
    return problems


def _overlap(a: int, a_bytes: int, b: int, b_bytes: int) -> bool:
    return a_bytes > 0 and b_bytes > 0 and a < b + b_bytes and b < a + a_bytes
