"""Matrix products without the transposes and the flattening that frameworks put around them."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.graph import Node, Value
from optc.ir.module import Module
from optc.ir.ops import Expand, Linear, MatMul, Reshape, Transpose
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import made_by, reshaped
from optc.passes.rewrite import Answer, Rules, Site, rewrite


@dataclass(frozen=True)
class SimplifyMatMul(Pass):
    """Take transposes into matmul's `transpose_b`, and flattened batches apart again.

    `torch.matmul` flattens batch axes before a batched product and restores them after it; the
    product keeps its batch axes here, which attention is recognised by. A linear layer works on
    any number of leading axes, so reshapes of those move behind it. The products are the same
    ones, but a kernel may add them in another order.
    """

    name = "simplify-matmul"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with plainer products."""
        return rewrite(module, _RULES, ctx, code="N0304")


def _transpose_right(node: Node, site: Site) -> Answer:
    a, b = node.inputs
    inner = made_by(site, b, Transpose)
    if inner is None or not isinstance(node.op, MatMul) or not _swaps_matrix(inner.op):
        return None
    return site.emit(MatMul(transpose_b=not node.op.transpose_b), a, inner.inputs[0])


def _narrow(node: Node, site: Site) -> Answer:
    """Operands as they are before Expand repeats their batch axes: matmul broadcasts those."""
    for place, value in enumerate(node.inputs):
        inner = made_by(site, value, Expand)
        if inner is None or inner.inputs[0].type.rank < 2:
            continue
        inputs = (*node.inputs[:place], inner.inputs[0], *node.inputs[place + 1 :])
        if inner.inputs[0].shape[-2:] != value.shape[-2:]:
            continue
        if node.op.infer(*(item.type for item in inputs)) == (node.output.type,):
            return site.emit(node.op, *inputs)
    return None


def _swaps_matrix(op: object) -> bool:
    assert isinstance(op, Transpose)
    rank = len(op.perm)
    return op.perm == (*range(rank - 2), rank - 1, rank - 2)


def _unflatten(node: Node, site: Site) -> Answer:
    """reshape(matmul(reshape(a), reshape(b))) that only flattens batch axes in between."""
    product = made_by(site, node.inputs[0], MatMul)
    shape = node.output.shape
    if product is None or site.uses(product.output) > 1 or len(shape) < 3:
        return None
    if shape[-2:] != product.output.shape[-2:] or len(shape) <= product.output.type.rank:
        return None
    a, b = (_unflattened(site, value, shape[:-2]) for value in product.inputs)
    return None if a is None or b is None else site.emit(product.op, a, b)


def _unflattened(site: Site, value: Value, batch: tuple[int, ...]) -> Value | None:
    """What `value` was before its batch axes, which were `batch`, were flattened."""
    source = made_by(site, value, Reshape)
    fits = source is not None and source.inputs[0].shape == (*batch, *value.shape[-2:])
    return source.inputs[0] if source is not None and fits else None


def _linear_of_flattened(node: Node, site: Site) -> Answer:
    """linear(reshape(x)) = reshape(linear(x)) when the reshape keeps the last axis."""
    x = node.inputs[0]
    inner = made_by(site, x, Reshape)
    if inner is None or x.type.rank < 1 or inner.inputs[0].type.rank <= x.type.rank:
        return None
    source = inner.inputs[0]
    if source.shape[-1] != x.shape[-1]:
        return None
    result = site.emit(node.op, source, *node.inputs[1:])
    return reshaped(site, result, node.output.shape)


_RULES: Rules = {
    MatMul: (_narrow, _transpose_right),
    Reshape: (_unflatten,),
    Linear: (_linear_of_flattened,),
}
