"""Where values live while a program runs: roots, aliases and lifetimes.

A root is a run of bytes that one or more values name: a kernel's output, or an input, a constant
or a state. Reshapes make no new root. A part lies inside another root: what is joined along the
outermost axis is computed in its place, and joining costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from optc.backends.aot.planner import Interval, plan_memory
from optc.backends.program import Held, Operand, Space
from optc.ir.graph import Node
from optc.ir.ops import Task


@dataclass(eq=False, slots=True)
class Root:
    """Some bytes. `operand` is known from the start, or given by `place` for those in the arena.

    A part begins `offset` bytes into its `whole`, and has no operand of its own.
    """

    nbytes: int
    operand: Operand | None = None
    first: int = -1
    last: int = -1
    whole: Root | None = None
    offset: int = 0
    name: str = ""

    def touch(self, time: int) -> None:
        """Note that the call at `time` reads or writes the bytes."""
        self.first = time if self.first < 0 else self.first
        self.last = time
        if self.whole is not None:
            self.whole.touch(time)

    @property
    def is_free(self) -> bool:
        """Whether it may still lie anywhere."""
        return self.operand is None and self.whole is None

    @property
    def at(self) -> Operand:
        """The address; raises ValueError before `place`."""
        if self.whole is not None:
            at = self.whole.at
            if at.space in (Space.INPUT, Space.OUTPUT):
                return replace(at, start=at.start + self.offset)
            return replace(at, offset=at.offset + self.offset)
        if self.operand is None:
            raise ValueError("this root has no address yet")
        return self.operand


def label_of(node: Node) -> str:
    """What the call of a node, and what it makes, is called: op, types, and the source line."""
    name = node.op.body.name if isinstance(node.op, Task) else node.op.name
    types = ", ".join(str(value.type) for value in node.outputs)
    return f"{name} {types}" + (f" @ {node.loc}" if node.loc else "")


def held(roots: Sequence[Root]) -> tuple[Held, ...]:
    """What lies in the arena, for people; the roots have their addresses."""
    return tuple(
        Held(root.name, root.at.offset, root.nbytes, root.first, root.last)
        for root in roots
        if root.whole is None and root.at.space is Space.ARENA and root.nbytes and root.first >= 0
    )


def place(roots: Sequence[Root]) -> int:
    """Give the roots without an address one in the arena; returns the arena's bytes."""
    floating = [root for root in roots if root.is_free]
    plan = plan_memory([Interval(root.nbytes, root.first, root.last) for root in floating])
    for root, offset in zip(floating, plan.offsets, strict=True):
        root.operand = Operand(Space.ARENA, offset)
    return plan.nbytes
