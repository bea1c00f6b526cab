"""Which weights kernels read in picked rows only: embedding tables, most often."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optc.backends.kernel import Job, Kernel
from optc.backends.streaming import Gather
from optc.ir.graph import Graph, Value
from optc.ir.ops import Take
from optc.passes.memory.joins import aliases, origin


def gathers(
    jobs: Mapping[str, Job], kernels: Mapping[str, Kernel]
) -> Mapping[str, tuple[Gather, ...]]:
    """By symbol, for kernels that have any; `jobs` and `kernels` have the same keys."""
    found = {kernels[key].symbol: tuple(_of(job, kernels[key])) for key, job in jobs.items()}
    return {symbol: items for symbol, items in found.items() if items}


def _of(job: Job, kernel: Kernel) -> Iterator[Gather]:
    body = job.body
    place = {value: index for index, value in enumerate(body.inputs)}
    for index in sorted(job.constants):
        table = body.inputs[index]
        picks = _picks(body, table)
        if len(picks) != 1 or index in kernel.packs:
            continue
        (indices,) = picks
        if indices in place and place[indices] not in job.constants:
            rows = table.shape[0]
            yield Gather(
                index,
                place[indices],
                indices.type.elements,
                indices.type.dtype.storage.itemsize,
                rows,
                table.type.nbytes // max(rows, 1),
            )


def _picks(body: Graph, table: Value) -> list[Value]:
    """What indexes rows of `table`, after reshapes; nothing where it is read in another way."""
    alias = aliases(body)
    users = body.users.get(table, ())
    takes = [n for n in users if isinstance(n.op, Take) and n.op.axis == 0 and n.inputs[0] is table]
    if len(takes) != len(users) or table in body.outputs:
        return []
    return [origin(node.inputs[1], alias) for node in takes]
