"""Following a Flow: the one walk that the reference, calibration, export and tools share.

It is lazy: stages behind a way out are run when someone asks for the next way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from optc.ir.graph import Graph
from optc.ir.module import ExitIf, Module, Run

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Way(Generic[T]):
    """One way out of a call: through the exit called `name`, or to the end (`name` is empty).

    `condition` says whether a call leaves here; it is None at the end, where every call does.
    """

    name: str
    condition: T | None
    outputs: Mapping[str, T]
    states: Mapping[str, T]


def ways_out(
    module: Module, given: Mapping[str, T], run: Callable[[Graph, list[T]], Sequence[T]]
) -> Iterator[Way[T]]:
    """Every way out in order, the end last; `given` are inputs and states by name."""
    names = dict(given)

    def way(condition: str, results: Sequence[str]) -> Way[T]:
        ports = [port.name for port in module.outputs]
        return Way(
            condition,
            names[condition] if condition else None,
            {port: names[result] for port, result in zip(ports, results, strict=True)},
            {state.name: names[state.name] for state in module.states},
        )

    for step in module.flow.steps:
        match step:
            case Run(graph, arguments, results):
                found = run(module.graph_of[graph], [names[name] for name in arguments])
                names.update(zip(results, found, strict=True))
            case ExitIf(condition, results):
                yield way(condition, results)
    yield way("", [port.name for port in module.outputs])


def follow(
    module: Module,
    given: Mapping[str, T],
    run: Callable[[Graph, list[T]], Sequence[T]],
    *,
    leave: bool = True,
) -> Way[T]:
    """The way out that a call takes; without `leave` it runs every stage, to the end."""
    ways = ways_out(module, given, run)
    way = next(ways)
    while way.condition is not None and not (leave and bool(way.condition)):
        way = next(ways)
    return way
