"""Which register tile a convolution takes: cycles by what binds a step of the inner loop.

Measured on Zen 5 against the tiles of ResNet-50's layers: the first choice is within a few percent
of the best. Units are slots of multiply-add issue, two of which make a cycle.
"""

from __future__ import annotations

import math
from itertools import product

from optc.backends.tvm.templates.conv_knobs import ConvKnobs
from optc.backends.tvm.templates.geometry import Geometry
from optc.backends.tvm.templates.taps import Phase, pieces
from optc.ir.targets.target import Target

_LATENCY = 8.0  # additions in flight before a sum may be added to again
_L2_VECTOR = 4.0  # a vector of weights from the second-level cache, and from beyond it
_FAR_VECTOR = 8.0
_START = 100.0  # a tile's first and last steps, and finding out where it is
_STORE = 3.0  # clearing and storing a vector of sums
_CASES = 1.05  # several rows per tile: more cases in the code


def tile_cost(shape: Geometry, knobs: ConvKnobs, target: Target, lanes: int) -> float:
    """Estimated cost of the whole convolution on one core, times how unevenly cores share it."""
    vectors = -(-shape.outputs // lanes)
    full, rest = divmod(vectors, knobs.vectors)
    widths = {knobs.vectors: full, rest: 1} if rest else {knobs.vectors: full}
    last = [(p, n) for p in shape.axes[-1] for n in pieces(p.count, knobs.columns)]
    rows: list[tuple[Phase | None, int]] = [(None, 1)]
    outer = shape.axes[:-1]
    if knobs.rows > 1:
        rows = [(p, n) for p in outer[-1] for n in pieces(p.count, knobs.rows)]
        outer = outer[:-1]
    total = 0.0
    for (_, height), (phase, width), (count, times) in product(rows, last, widths.items()):
        steps = max(1, shape.taps * shape.inputs * phase.taps // max(1, shape.kernel[-1]))
        step = step_cost(height * width, count, shape, target, lanes)
        total += times * (step * steps + _STORE * height * width * count + _START)
    repeats = shape.batch * shape.groups * math.prod(sum(p.count for p in axis) for axis in outer)
    items = repeats * len(rows) * len(last) * sum(widths.values())
    uneven = -(-items // target.cores) * target.cores / items
    return total * repeats * uneven * (_CASES if knobs.rows > 1 else 1.0)


def step_cost(positions: int, vectors: int, shape: Geometry, target: Target, lanes: int) -> float:
    """One input channel at one tap: a product of `positions` elements and `vectors` vectors."""
    products = positions * vectors * (1.0 if target.fma else 2.0)
    loads = positions + vectors
    panel = shape.taps * shape.inputs * vectors * lanes * 4
    if panel <= target.cache("l1", 1 << 15) // 2:
        stream = 0.0
    else:
        stream = _L2_VECTOR if panel <= target.cache("l2", 1 << 18) // 2 else _FAR_VECTOR
    return max(products, loads, _LATENCY, stream * vectors) + 0.02 * (products + loads)
