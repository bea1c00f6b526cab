"""Refuses tensors whose elements 32-bit indices do not reach.

Kernels compute places in 32 bits, which is what registers and address units are fast at; beyond
them an index would wrap, and a kernel would read and write where nothing of its own lies.
"""

from __future__ import annotations

from collections.abc import Iterable

from optc.backends.kernel import Job
from optc.ir.diagnostics import error

# The last vectors, tiles and blocks of threads ask for places behind the last element.
MOST_ELEMENTS = (1 << 31) - (1 << 16)


def refuse_unreachable(jobs: Iterable[Job]) -> None:
    """Raises E0505 for the first value of a kernel that has too many elements."""
    for job in jobs:
        for node in job.body.nodes:
            for value in (*node.inputs, *node.outputs):
                if value.type.elements > MOST_ELEMENTS:
                    raise error(
                        "E0505",
                        f"{value.type} has {value.type.elements} elements: kernels index with "
                        f"32 bits and reach {MOST_ELEMENTS}",
                        loc=node.loc,
                        help="optc inspect model.pt2",
                    )
