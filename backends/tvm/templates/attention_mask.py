"""Masks of attention with their rows side by side, as scores are kept.

A mask [..., S, T] has neighbouring keys side by side, attention's vectors hold neighbouring rows:
element by element, reading it would take longer than the products. A constant mask is turned when
the kernel is compiled, any other one at the start of the kernel, once for all heads that share it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.nest import unravel
from optc.backends.tvm.templates.shuffles import transposed
from optc.ir.types import TensorType

_DTYPE = "float32"
_MOST_BYTES = 8 << 20  # of scratch memory; larger masks are read element by element
_CYCLES = 0.5  # to turn an element, by shuffles


@dataclass(frozen=True, slots=True)
class MaskPack:
    """[..., S, T] masks as [..., T, S']: rows side by side, their number padded to a multiple."""

    multiple: int

    def type(self, natural: TensorType) -> TensorType:
        """[..., T, S']."""
        *lead, rows, keys = natural.shape
        return natural.with_shape((*lead, keys, -(-rows // self.multiple) * self.multiple))

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The transpose, with zeros."""
        turned = np.swapaxes(array, -1, -2)
        width = -turned.shape[-1] % self.multiple
        return np.ascontiguousarray(np.pad(turned, [(0, 0)] * (array.ndim - 1) + [(0, width)]))


def turned_mask(
    code: Code,
    shape: Sequence[int],
    element: Callable[[Sequence[Expr]], Expr],
    multiple: int,
    lanes: int,
) -> Buffer | None:
    """Write f32 `element(index)` of a mask [..., S, T] to scratch memory as [..., T, S'].

    S' is S padded to a multiple; rows beyond the last repeat it. None where elements are better
    read one by one: masks of one row, few keys, or more bytes than are kept.
    """
    *lead, rows, keys = shape
    padded = -(-rows // multiple) * multiple
    size = math.prod(lead) * padded * keys
    if rows == 1 or keys < lanes or 4 * size > _MOST_BYTES:
        return None
    buffer = code.scratch("mask", (*lead, keys, padded), _DTYPE, scope="global")
    extents = (*lead, padded // lanes)
    with code.shared("strip", math.prod(extents), size * _CYCLES) as strip:
        *at, place = unravel(code, strip, extents)
        first = code.bind(place * lanes, "first")

        def block(key: Expr) -> None:
            sources = [code.scratch("row", (lanes,), _DTYPE) for _ in range(lanes)]
            for number, source in enumerate(sources):
                row = tirx.min(first + number, as_index(rows - 1))
                with code.vector("lane", lanes) as lane:
                    code.store(source, (lane,), element([*at, row, key + lane]))
            for number, found in enumerate(transposed(code, sources)):
                with code.vector("lane", lanes) as lane:
                    code.store(buffer, (*at, key + number, first + lane), found[lane])

        with code.loop("block", keys // lanes) as step:
            block(code.bind(step * lanes, "key"))
        if keys % lanes:  # the last block begins in the one before it
            block(as_index(keys - lanes))
    return buffer
