"""Which samples to look at when there are more than needed: some of every kind.

EvoP's clustered calibration sampling (Wu et al. 2025, CCDS): samples are clustered by an embedding,
then drawn cluster by cluster, so that rare kinds are among them. Their sentence encoder is here the
model itself: the embedding is one of its values, averaged over places.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from optc.ir.graph import Value
from optc.ir.module import Module
from optc.passes.calibration import Array, Calibration

Vectors = NDArray[np.float64]
CLUSTERS = 5  # as in the paper's code
ROUNDS = 20  # of Lloyd's algorithm; it has settled long before on so few clusters


def clustered_calls(
    calibration: Calibration, module: Module, value: Value, count: int, seed: int
) -> frozenset[int] | None:
    """Numbers of `count` calls of the calibration part; None where there are no more than those.

    Runs `module` once over the part and keeps a vector a call.
    """
    if calibration.batches.calls <= count:
        return None
    vectors: list[Vectors] = []

    def see(found: Mapping[Value, Array]) -> None:
        vectors.append(embedding(found[value]))

    calibration.visit(module, [value], see)
    return frozenset(drawn(np.stack(vectors), count, seed))


def embedding(array: Array) -> Vectors:
    """The mean over places: of [B, C, H, W] the channels' means, of [B, S, E] the features'."""
    numbers = array.astype(np.float64)
    channel = 1 if numbers.ndim > 3 else max(numbers.ndim - 1, 0)
    axes = tuple(axis for axis in range(numbers.ndim) if axis != channel)
    return np.atleast_1d(numbers.mean(axes))


def drawn(vectors: Vectors, count: int, seed: int) -> list[int]:
    """`count` rows: clusters take turns, each gives its next row in random order."""
    draw = np.random.default_rng(seed)
    label = _clusters(vectors, min(CLUSTERS, len(vectors)), draw)
    piles = [draw.permutation(np.flatnonzero(label == number)).tolist() for number in set(label)]
    found: list[int] = []
    while len(found) < min(count, len(vectors)):
        for pile in draw.permutation(len(piles)):
            if piles[pile] and len(found) < count:
                found.append(piles[pile].pop())
    return found


def _clusters(rows: Vectors, count: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """Lloyd's algorithm from rows that are far apart (k-means++, Arthur and Vassilvitskii 2007)."""
    centres = rows[draw.integers(len(rows))][None]
    while len(centres) < count:
        near = _distances(rows, centres).min(1)
        if not near.sum():
            break
        centres = np.concatenate([centres, rows[draw.choice(len(rows), p=near / near.sum())][None]])
    for _ in range(ROUNDS):
        label = _distances(rows, centres).argmin(1)
        means = [
            rows[label == n].mean(0) if (label == n).any() else c for n, c in enumerate(centres)
        ]
        centres = np.stack(means)
    found: NDArray[np.int64] = _distances(rows, centres).argmin(1)
    return found


def _distances(rows: Vectors, centres: Vectors) -> Vectors:
    found: Vectors = ((rows[:, None] - centres[None]) ** 2).sum(-1)
    return found
