"""Layers cut by their outputs, so that weights larger than a window can be streamed in parts."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.constant import Constant, Splat, constant, splat
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import Concat, Conv, Dequantize, Linear
from optc.ir.targets.target import Arch
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import made_by
from optc.passes.rewrite import Answer, Miss, Site, rewrite_graph
from optc.passes.weights import known

_CODE = "N0323"
_WINDOW = 4  # parts that the window holds: one is multiplied by while others are read
# Outputs that stay together: whole panels of packed weights on every target; where even these are
# too many, a vector of them.
_STEPS = (64, 32, 16)


@dataclass(frozen=True)
class SplitWeights(Pass):
    """Compute layers with large weights as several, each a share of the outputs, and join these.

    A budget of memory streams weights through a window that holds at least those of one kernel. A
    layer is cut whose weights do not fit into `room` bytes, so that four of its parts do, or one
    where outputs must stay together. Parts are joined without a copy where the outputs have one
    row. Runs behind the last clean-up, which would merge the parts.
    """

    name = "split-weights"
    effect = Effect.ROUNDING  # each sum has the same terms, in the order of another kernel
    room: int = 0  # bytes of the window; 0: nothing is cut

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with its largest layers in parts."""
        if not self.room or ctx.target.arch is Arch.CUDA:
            return module
        return module.with_graphs(tuple(self._cut(graph, ctx) for graph in module.graphs))

    def _cut(self, graph: Graph, ctx: PassContext) -> Graph:
        def cut(node: Node, site: Site) -> Answer:
            return _parts(node, site, self.room)

        return rewrite_graph(graph, {Linear: (cut,), Conv: (cut,)}, ctx, code=_CODE)


def _parts(node: Node, site: Site, room: int) -> Answer:
    """concat(layer(x, w[0:n], b[0:n]), layer(x, w[n:2n], b[n:2n]), ...)."""
    x, weight, *bias = node.inputs
    stored, outputs = _stored(site, weight), weight.shape[0]
    if stored <= room or outputs <= _STEPS[-1]:
        return None
    step = _outputs(site, weight, room)
    if step >= outputs:
        return None
    if isinstance(node.op, Conv) and node.op.groups != 1:
        return Miss("its groups have weights of their own")
    if not _divides(site, weight, step) or not known(site, *bias):
        return Miss("its weights are no constant that can be cut")
    site.ctx.remark(
        _CODE,
        f"{node.op.name} with {stored} bytes of weights cut into {-(-outputs // step)} parts of "
        f"{step} outputs at most",
        node.loc,
    )
    axis = 1 if isinstance(node.op, Conv) and not node.op.channels_last else x.type.rank - 1
    made = []
    for start in range(0, outputs, step):
        rows = slice(start, min(start + step, outputs))
        operands = [_rows(site, value, rows) for value in (weight, *bias)]
        made.append(site.emit(node.op, x, *operands))
    return site.emit(Concat(axis), *made)


def _outputs(site: Site, weight: Value, room: int) -> int:
    """How many outputs a part has."""
    outputs = weight.shape[0]
    most = outputs // -(-_WINDOW * _stored(site, weight) // room)
    wide = -(-max(most, 1) // _STEPS[0]) * _STEPS[0]
    fitting = (step for step in (wide, *_STEPS) if _stored(site, weight, step) <= room)
    return next(fitting, _STEPS[-1])


def _stored(site: Site, weight: Value, outputs: int | None = None) -> int:
    """Bytes of a weight, or of its rows for some outputs, as it lies in memory: of its integers and
    their parameters, where it is dequantized.
    """
    node = made_by(site, weight, Dequantize)
    values = (weight,) if node is None else node.inputs
    if outputs is None:
        return sum(value.type.nbytes for value in values)
    return sum(
        value.type.nbytes
        if value.type.rank == 0 or value.shape[0] == 1
        else -(-value.type.nbytes * outputs // weight.shape[0])
        for value in values
    )


def _divides(site: Site, weight: Value, step: int) -> bool:
    """Whether a weight is a constant, or dequantized from some, that can be cut at `step` rows."""
    node = made_by(site, weight, Dequantize)
    values = (weight,) if node is None else node.inputs
    return known(site, *values) and all(step % _share(value, weight) == 0 for value in values)


def _share(value: Value, weight: Value) -> int:
    """How many outputs share an entry of a parameter; 1 where all of them do, and none is cut."""
    alone = value.type.rank == 0 or value.shape[0] == 1
    return 1 if alone else weight.shape[0] // value.shape[0]


def _rows(site: Site, value: Value, rows: slice) -> Value:
    """The rows of a constant, or of what is dequantized from constants."""
    node = made_by(site, value, Dequantize)
    if node is None:
        item = site.constant_of(value)
        assert item is not None
        return site.constant(_sliced(item, rows), value.hint)
    parameters = []
    for operand in node.inputs:
        item = site.constant_of(operand)
        assert item is not None
        share = _share(operand, value)
        cut = slice(rows.start // share, -(-rows.stop // share))
        alone = operand.type.rank == 0 or operand.shape[0] == 1
        parameters.append(operand if alone else site.constant(_sliced(item, cut), operand.hint))
    return site.emit(node.op, *parameters)


def _sliced(item: Constant, rows: slice) -> Constant:
    if isinstance(item.source, Splat):
        count = rows.stop - rows.start
        return splat(item.source.value, item.type.with_shape((count, *item.type.shape[1:])))
    return constant(item.array[rows], item.type.dtype)
