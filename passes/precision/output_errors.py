"""How far a changed graph's outputs are from the original's, call by call, from where a walk is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optc.passes.calibration import Array, Walk

Errors = NDArray[np.float64]
TINY = 1e-30


@dataclass(frozen=True, eq=False)
class OutputErrors:
    """What the original gives in some calls: for each output that a node computes, its arrays."""

    wanted: Sequence[Sequence[Array] | None]

    @staticmethod
    def of(original: Walk) -> OutputErrors:
        """Runs the original's walk to its end."""
        return OutputErrors(_outputs(original))

    def of_calls(self, walk: Walk) -> Errors:
        """The error of each call, the walk itself staying where it is.

        Of numbers the squared distance as a share of the original's variance over all calls, of
        whole ones and truths the share that is unlike; the mean over the outputs.
        """
        found = _outputs(walk.fork())
        pairs = [(f, w) for f, w in zip(found, self.wanted, strict=True) if f and w]
        shares = [_share(one, other) for one, other in pairs]
        return np.mean(shares, 0) if shares else np.zeros(1)


def nearer(before: Errors, after: Errors) -> bool:
    """Whether the outputs are nearer on average; never where an error is not a number."""
    return bool(after.mean() < before.mean())


def _outputs(walk: Walk) -> Sequence[Sequence[Array] | None]:
    """Outputs that are an input or a constant have no error: None."""
    graph = walk.graph
    made = {value for node in graph.nodes for value in node.outputs}
    found: list[Sequence[Array] | None] = []
    for value in graph.outputs:
        if value in made:
            walk.until(value)
        found.append(list(walk.at(value)) if value in made else None)
    return found


def _share(found: Sequence[Array], wanted: Sequence[Array]) -> Errors:
    if wanted[0].dtype.kind != "f":
        pairs = zip(found, wanted, strict=True)
        return np.array([float(np.mean(one != other)) for one, other in pairs])
    a, b = (np.stack([item.astype(np.float64) for item in items]) for items in (found, wanted))
    errors: Errors = ((a - b) ** 2).reshape(len(b), -1).mean(1)
    return errors / max(float(b.var()), TINY)
