"""Four-bit constants as bytes of two, and the shifts that take them apart.

Machines address bytes. Weights lie packed in the artifact, and the task that dequantizes them takes
them apart. Only what the backend's kernels take as half bytes themselves stays an i4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optc.ir.constant import constant, splat
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import Dequantize, Linear, Reshape, Slice, Take, ew
from optc.ir.targets.target import Arch
from optc.ir.types import TensorType
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.fusion.outline import outline
from optc.passes.matching import made_by, number
from optc.passes.rewrite import Answer, Miss, Rules, Site, rewrite
from optc.passes.weights import known

_OFFSET = 8  # nibbles are stored without a sign


@dataclass(frozen=True)
class UnpackNibbles(Pass):
    """Store dequantized i4 constants two in a byte, the even ones in the low half.

    A table keeps its rows apart, so that they can be picked. Weights of layers that the target has
    a kernel for are left to it: it packs them as it likes. Runs last of all that looks at
    constants: folding would make bytes of them.
    """

    name = "unpack-nibbles"
    effect = Effect.EXACT

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module without i4, but for weights that a kernel takes so."""
        graphs = module.graphs
        taken = {n for graph in graphs for n in graph.nodes if _is_taken(graph, n, ctx)}

        def unpack(node: Node, site: Site) -> Answer:
            return None if node in taken else _unpack(node, site)

        rules: Rules = {Dequantize: (unpack,)}
        return rewrite(module, rules, ctx, code="N0332")


def _is_taken(graph: Graph, node: Node, ctx: PassContext) -> bool:
    """Whether every reader is a layer that makes a good kernel together with its half bytes."""
    if not isinstance(node.op, Dequantize) or node.inputs[0].type.dtype is not DType.I4:
        return False
    readers = graph.users.get(node.output, ())
    if ctx.accepts is None or ctx.target.arch is Arch.CUDA or not readers:
        return False
    for reader in readers:
        if not isinstance(reader.op, Linear) or reader.inputs[1] is not node.output:
            return False
        part = outline(graph, (node, reader), ())
        if ctx.accepts(part.body, part.constants) is not None:
            return False
    return node.output not in graph.outputs


def _unpack(node: Node, site: Site) -> Answer:
    """dequantize(i4) = dequantize(nibbles as u8, zero + 8): the same differences."""
    q, scale, zero = node.inputs
    if q.type.dtype is not DType.I4:
        return None
    picked = made_by(site, q, Take)
    source = q if picked is None else picked.inputs[0]
    item, offset = site.constant_of(source), number(site, zero)
    if item is None or not known(site, source) or not isinstance(offset, int):
        return Miss("its integers are not a constant")
    moved = site.constant(splat(offset + _OFFSET, TensorType((), DType.U8)), zero.hint)
    array = item.array.astype(np.int64) + _OFFSET
    if picked is None:
        bytes_ = site.constant(constant(_packed(array.reshape(-1))), source.hint)
    else:
        if not isinstance(picked.op, Take) or picked.op.axis != 0 or array.shape[-1] % 2:
            return Miss("its rows are not whole bytes")
        table = site.constant(constant(_packed(array)), source.hint)
        bytes_ = site.emit(picked.op, table, picked.inputs[1])
    return site.emit(node.op, _apart(site, bytes_, q), scale, moved)


def _packed(array: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Neighbours along the last axis in one byte; the last of an odd number is alone."""
    if array.shape[-1] % 2:
        array = np.concatenate([array, np.zeros((*array.shape[:-1], 1), np.int64)], axis=-1)
    return (array[..., ::2] | array[..., 1::2] << 4).astype(np.uint8)


def _apart(site: Site, bytes_: Value, q: Value) -> Value:
    """Nibbles as u8 in the shape of q."""
    shifts = site.constant(constant(np.array([0, 4], np.uint8)), "shifts")
    mask = site.constant(splat(15, TensorType((), DType.U8)), "mask")
    pairs = site.emit(Reshape((*bytes_.shape, 1)), bytes_)
    nibbles = site.emit(ew.BitwiseAnd(), site.emit(ew.ShiftRight(), pairs, shifts), mask)
    if nibbles.type.elements != q.type.elements:
        flat = site.emit(Reshape((nibbles.type.elements,)), nibbles)
        nibbles = site.emit(Slice((0,), (q.type.elements,), (1,)), flat)
    return site.emit(Reshape(q.shape), nibbles)
