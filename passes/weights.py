"""Arithmetic on constants at compile time, in double precision and rounded once at the end."""

from __future__ import annotations

import numpy as np

from optc.ir.constant import Absent, Constant, Splat, constant, from_floats, splat, to_floats
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.types import TensorType
from optc.passes.rewrite import Site


def known(site: Site, *values: Value) -> bool:
    """Whether all of `values` are constants whose content is at hand."""
    items = [site.constant_of(value) for value in values]
    return all(item is not None and not isinstance(item.source, Absent) for item in items)


def numbers(site: Site, value: Value) -> np.ndarray:
    """The content of a known constant, in f64."""
    item = site.constant_of(value)
    assert item is not None
    return to_floats(item).astype(np.float64)


def negated(site: Site, value: Value) -> Constant:
    """Minus a known constant of floats."""
    item = site.constant_of(value)
    if item is not None and item.splat is not None:
        return splat(-item.splat, item.type)
    return rounded(-numbers(site, value), value.type.dtype)


def rounded(array: np.ndarray, dtype: DType) -> Constant:
    """A constant of floats, rounded to `dtype`; a splat if all its elements are the same bits."""
    flat = array.reshape(-1)
    if flat.size and np.all(flat == flat[0]) and len(set(np.signbit(flat))) == 1:
        one = to_floats(from_floats(flat[:1], dtype))
        return splat(float(one[0]), TensorType(array.shape, dtype))
    return from_floats(array, dtype)


def transposed(item: Constant, perm: tuple[int, ...]) -> Constant:
    """The constant with its axes permuted, contiguous."""
    shape = tuple(item.type.shape[axis] for axis in perm)
    if isinstance(item.source, Splat):
        return splat(item.source.value, item.type.with_shape(shape))
    return constant(np.ascontiguousarray(item.array.transpose(perm)), item.type.dtype)


def in_shape(item: Constant, shape: tuple[int, ...]) -> Constant:
    """The constant under another shape; shares memory."""
    if isinstance(item.source, Splat):
        return splat(item.source.value, item.type.with_shape(shape))
    return constant(item.array.reshape(shape), item.type.dtype)
