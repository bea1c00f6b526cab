"""When Winograd's way pays: cycles of its three parts, and of the direct way, in the same terms.

Products are register tiles. Transforms are bound by what they write to and read from the second-
level cache. Weights come from memory, since those of other layers have gone through the caches
since the last run; Winograd's are up to four times as many, which is why layers with many channels
and few positions stay direct. Constants are fitted to 110 kernels on Zen 5, both AVX-512 and AVX2,
whose times they give within 10 % but for one in ten.
"""

from __future__ import annotations

from optc.backends.tvm.templates.apart import SUMS
from optc.backends.tvm.templates.conv import ConvPlan
from optc.backends.tvm.templates.conv_knobs import ConvKnobs
from optc.backends.tvm.templates.products_apart import pass_cycles
from optc.backends.tvm.templates.winograd_knobs import Share
from optc.backends.tvm.templates.winograd_tiling import Tiling
from optc.ir.targets.target import Target

_FAR_BYTES = 9.0  # from memory in a cycle, all cores together
_BESIDE = 0.3  # of the shorter of work and fetching, that the longer does not hide
_UNFUSED = 1.45  # a product and an addition; they have units of their own
_LATENCY = 4.0  # cycles of a step with too few sums to be busy
_LOAD = 0.07  # of a load beside multiply-adds
_TILE = 30.0  # to start and finish a register tile
_SPREAD = 0.095  # a byte of a transformed tile: written, and later read, beyond the first cache
_GATHER = 1.2  # a vector on the way from products to results
_MOVED = 0.15  # a byte that another core has written
_LAUNCH = 2000.0  # a parallel loop, disturbances included
_SPILLED = 1.15  # what a thread works on is larger than its second-level cache


def direct_cycles(plan: ConvPlan, knobs: ConvKnobs) -> float:
    """Estimated cycles of the direct convolution, weights from memory."""
    work = plan.cost(knobs) / 2 / plan.target.cores + _LAUNCH
    return _beside(work, plan.node.inputs[1].type.nbytes)


def winograd_cycles(tiling: Tiling, target: Target, lanes: int) -> float:
    """Estimated cycles of the slowest thread."""
    shape, knobs, cores = tiling.shape, tiling.knobs, target.cores
    vectors = -(-shape.outputs // lanes)
    panels = -(-vectors // knobs.vectors)
    data = 4.0 * tiling.points * knobs.block * shape.inputs
    panel = _panel(tiling, target, vectors / panels)
    weights = 4 * tiling.points * shape.inputs * vectors * lanes
    if knobs.share is Share.TILES:
        passes = -(-tiling.blocks // min(tiling.blocks, cores))
        work = passes * (data * _SPREAD + panels * panel) + _LAUNCH
    else:
        passes = tiling.blocks
        stretch = -(-panels // min(panels, cores))
        elsewhere = data * (cores - 1) / cores * _MOVED
        part = -(-knobs.block // cores) / knobs.block
        work = passes * (data * _SPREAD * part + elsewhere + stretch * panel + 2 * _LAUNCH)
    near = target.cache("l2", 1 << 18)
    if data * (1 + knobs.vectors * lanes / shape.inputs) > near:
        work *= _SPILLED
    return _beside(work, weights * (passes if weights > near / 2 else 1))


def _panel(tiling: Tiling, target: Target, vectors: float) -> float:
    """One panel of output channels of a block: products, and results from them."""
    knobs = tiling.knobs
    products = tiling.points * knobs.strips * _tile(tiling, target, vectors)
    down, across = tiling.down, tiling.across
    touched = tiling.points + down.outputs * (across.points + across.outputs)
    return products + knobs.block * vectors * touched * _GATHER


def _tile(tiling: Tiling, target: Target, vectors: float) -> float:
    """The products of one register tile."""
    knobs, inputs = tiling.knobs, tiling.shape.inputs
    if knobs.apart:
        passes = vectors * SUMS / knobs.apart
        return passes * pass_cycles(knobs.rows, knobs.apart, inputs / SUMS)
    loads = knobs.rows + vectors
    multiply = knobs.rows * vectors / 2 * (1 if target.fma else _UNFUSED)
    step = max(multiply, loads / 2, _LATENCY) + _LOAD * loads
    return step * inputs + _TILE


def _beside(work: float, fetched: float) -> float:
    """Work while so many bytes come from memory."""
    fetching = fetched / _FAR_BYTES
    return max(work, fetching) + _BESIDE * min(work, fetching)
