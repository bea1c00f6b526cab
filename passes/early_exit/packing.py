"""Rows of a batch that a small model is not sure of, packed into calls of a large one.

All shapes are static, so packing is an order: the places of unsure rows come first, and the large
model, whose batch is smaller, takes them some at a time. In front of each of its runs is an exit
for the case that no unsure row is left: what is saved is work that the artifact skips and counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.module import ExitIf, Flow, Module, Port, Run, Step
from optc.ir.ops import Concat, ReduceSum, Reshape, ScatterNd, Slice, Sort, Take, ew
from optc.ir.types import TensorType

I32_SCALAR = TensorType((), DType.I32)


@dataclass(frozen=True, slots=True)
class Packing:
    """`rows` of a call in groups of `size`, as many as the large model takes."""

    rows: int
    size: int

    @property
    def groups(self) -> int:
        """Runs of the large model in the worst case."""
        return self.rows // self.size


def packing_of(small: Sequence[Port], large: Sequence[Port]) -> Packing | None:
    """How rows of one go into calls of the other, by their ports; None where they cannot.

    Ports are equal but for their first axis, where that differs: then it is the rows'.
    """
    if [port.name for port in small] != [port.name for port in large]:
        return None
    pairs = set()
    for mine, theirs in zip(small, large, strict=True):
        if mine.type == theirs.type:
            continue
        same = mine.type.dtype == theirs.type.dtype and mine.type.shape[1:] == theirs.type.shape[1:]
        if not same or not mine.type.rank or not theirs.type.rank:
            return None
        pairs.add((mine.type.shape[0], theirs.type.shape[0]))
    if len(pairs) != 1:
        return None
    rows, size = pairs.pop()
    return Packing(rows, size) if 0 < size < rows and rows % size == 0 else None


def has_rows(port: Port, rows: int) -> bool:
    """Whether the first axis of a port are the rows of a call."""
    return port.type.rank > 0 and port.type.shape[0] == rows


def in_groups(large: Module, packing: Packing) -> Module:
    """The same model for more rows: it runs for a group after the other."""
    inputs = [port for port in large.inputs if has_rows(port, packing.size)]
    steps: list[Step] = []
    graphs = [*large.graphs]
    (run,) = large.flow.runs
    for group in range(packing.groups):
        first = Builder(f"rows_{group}")
        picked = [_part(first, _grown(port, packing), packing, group) for port in inputs]
        graphs.append(first.build(picked))
        own = {port.name: f"{port.name}.{group}" for port in inputs}
        steps.append(Run(first.name, tuple(own), tuple(own.values())))
        arguments = tuple(own.get(name, name) for name in run.inputs)
        steps.append(Run(run.graph, arguments, tuple(f"{n}.{group}" for n in run.outputs)))
    join = Builder("join")
    outputs = [port for port in large.outputs if has_rows(port, packing.size)]
    names = [f"{port.name}.{group}" for port in outputs for group in range(packing.groups)]
    joined = []
    for port in outputs:
        parts = [join.input(port.type, port.name) for _ in range(packing.groups)]
        joined.append(join.emit(Concat(axis=0), *parts))
    graphs.append(join.build(joined))
    steps.append(Run(join.name, tuple(names), tuple(port.name for port in outputs)))
    return replace(
        large,
        inputs=tuple(_grown(port, packing) for port in large.inputs),
        outputs=tuple(_grown(port, packing) for port in outputs),
        graphs=tuple(graphs),
        flow=Flow(tuple(steps)),
        returns=None,
    )


def _grown(port: Port, packing: Packing) -> Port:
    if not has_rows(port, packing.size):
        return port
    return replace(port, type=TensorType((packing.rows, *port.type.shape[1:]), port.type.dtype))


def _part(builder: Builder, port: Port, packing: Packing, group: int) -> Value:
    """The rows of a group as they come."""
    value, shape = builder.input(port.type, port.name), port.type.shape
    start, rest = group * packing.size, tuple(0 for _ in shape[1:])
    stops, steps = (start + packing.size, *shape[1:]), tuple(1 for _ in shape)
    return builder.emit(Slice((start, *rest), stops, steps), value)


def add_order(builder: Builder, sure: Value, packing: Packing) -> list[Value]:
    """From a bool a row: the rows' places, unsure ones first, and for each group whether no unsure
    row is left for it.
    """
    numbers = builder.emit(ew.Cast(DType.I32), sure)
    _, order = builder.emit_all(Sort(axis=0), numbers)
    total = builder.emit(ReduceSum(axes=(0,)), numbers)
    done = []
    for group in range(packing.groups):
        least = builder.splat(packing.rows - group * packing.size, I32_SCALAR, "done")
        done.append(builder.emit(ew.GreaterEqual(), total, least, hint="done"))
    return [builder.emit(ew.Cast(DType.I32), order, hint="order"), *done]


def packed_steps(
    large: Module, packing: Packing, answers: dict[str, str], names: Sequence[str]
) -> tuple[list[Graph], list[Step]]:
    """The large model's runs, each behind its exit.

    `answers` are the variables of the small model's outputs by port, `names` the exits; `order` and
    `sure` are variables too.
    """
    (run,) = large.flow.runs
    outputs = [port for port in large.outputs if has_rows(port, packing.size)]
    graphs: list[Graph] = []
    steps: list[Step] = []
    for group, name in enumerate(names):
        steps.append(ExitIf(name, tuple(answers[port.name] for port in outputs)))
        taken = {port.name: f"{port.name}.{group}" for port in large.inputs}
        taken = {n: t for n, t in taken.items() if has_rows(_port(large, n), packing.size)}
        gather = _gather(large, packing, group, tuple(taken))
        steps.append(Run(gather.name, (*taken, "order"), tuple(taken.values())))
        arguments = tuple(taken.get(n, n) for n in run.inputs)
        found = {n: f"large.{n}.{group}" for n in run.outputs}
        steps.append(Run(run.graph, arguments, tuple(found.values())))
        merge = _merge(outputs, packing, group)
        before = tuple(answers[port.name] for port in outputs)
        last = group == packing.groups - 1
        merged = tuple(port.name if last else f"{port.name}.{group}.mixed" for port in outputs)
        given = (*before, *(found[port.name] for port in outputs), "order", "sure")
        steps.append(Run(merge.name, given, merged))
        answers = dict(zip((port.name for port in outputs), merged, strict=True))
        graphs += [gather, merge]
    return graphs, steps


def _port(module: Module, name: str) -> Port:
    return next(port for port in module.inputs if port.name == name)


def _gather(large: Module, packing: Packing, group: int, names: Sequence[str]) -> Graph:
    builder = Builder(f"gather_{group}")
    data = [builder.input(_grown(_port(large, name), packing).type, name) for name in names]
    places = _places(builder, builder.input(_order(packing), "order"), packing, group)
    return builder.build([builder.emit(Take(axis=0), value, places) for value in data])


def _merge(outputs: Sequence[Port], packing: Packing, group: int) -> Graph:
    """Put a group's rows into the answers; a row that filled the group up keeps what it has."""
    builder = Builder(f"merge_{group}")
    old = [builder.input(_grown(port, packing).type, port.name) for port in outputs]
    new = [builder.input(port.type, port.name) for port in outputs]
    order = builder.input(_order(packing), "order")
    sure = builder.input(TensorType((packing.rows,), DType.BOOL), "sure")
    places = _places(builder, order, packing, group)
    settled = builder.emit(Take(axis=0), sure, places)
    index = builder.emit(Reshape((packing.size, 1)), places)
    return builder.build(list(_merged(builder, old, new, places, settled, index)))


def _merged(
    builder: Builder,
    old: Sequence[Value],
    new: Sequence[Value],
    places: Value,
    settled: Value,
    index: Value,
) -> Iterator[Value]:
    for answer, found in zip(old, new, strict=True):
        rows, *rest = found.shape
        keep = builder.emit(Reshape((rows, *[1] * len(rest))), settled)
        mine = builder.emit(ew.Where(), keep, builder.emit(Take(axis=0), answer, places), found)
        yield builder.emit(ScatterNd(), answer, index, mine)


def _order(packing: Packing) -> TensorType:
    return TensorType((packing.rows,), DType.I32)


def _places(builder: Builder, order: Value, packing: Packing, group: int) -> Value:
    start = group * packing.size
    return builder.emit(Slice((start,), (start + packing.size,), (1,)), order)
