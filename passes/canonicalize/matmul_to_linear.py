"""A product with a constant matrix is a linear layer, whose weight can be packed ahead of time."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.dtype import DType
from optc.ir.graph import Node
from optc.ir.module import Module
from optc.ir.ops import Linear, MatMul
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.rewrite import Answer, Miss, Site, rewrite
from optc.passes.weights import in_shape, known, transposed

_LARGE = 1 << 16  # bytes above which a second copy of a weight is not worth having


@dataclass(frozen=True)
class MatMulToLinear(Pass):
    """Turn products with a constant matrix into linear layers; fold-scale then adds the bias.

    A matrix that must be transposed and that others read as well stays as it is: it would be in
    the model twice.
    """

    name = "matmul-to-linear"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with linear layers in place of constant products."""
        return rewrite(module, {MatMul: (_linear,)}, ctx, code="N0304")


def _linear(node: Node, site: Site) -> Answer:
    x, matrix = node.inputs
    assert isinstance(node.op, MatMul)
    item = site.constant_of(matrix)
    if item is None:
        return None
    if matrix.type.dtype is DType.U8:
        return Miss("the weight of a linear layer of bytes is i8, not u8")
    if not known(site, matrix):
        return Miss("the content of the constant matrix is not at hand")
    if matrix.type.elements != matrix.shape[-1] * matrix.shape[-2]:
        return Miss(f"{matrix.type} is a batch of matrices, not one")
    if matrix.type.rank > x.type.rank:
        return Miss(f"{x.type} has fewer axes than {matrix.type}")
    item = in_shape(item, matrix.shape[-2:])
    if node.op.transpose_b:
        weight = matrix if matrix.type.rank == 2 else site.constant(item, matrix.hint)
    elif site.uses(matrix) > 1 and item.type.nbytes > _LARGE:
        return Miss("others read the matrix as it is, and a transposed copy would be large")
    else:
        weight = site.constant(transposed(item, (1, 0)), matrix.hint)
    return site.emit(Linear(), x, weight)
