"""What the constant masks of attention hide."""

from __future__ import annotations

from enum import Enum, auto
from graphlib import TopologicalSorter

import numpy as np

from optc.ir.constant import Absent, to_floats
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.passes.rewrite import Site

_HIDDEN = -1e4  # added to a score, this leaves nothing of it after the softmax in f32
_LARGEST = 1 << 26  # elements of a mask that is evaluated to be looked at
_NODES = 64


def lowest(dtype: DType) -> float:
    """Numbers up to this one stand for minus infinity when a model fills them in."""
    return -6e4 if dtype is DType.F16 else -1e9


class Hidden(Enum):
    """Which scores a mask takes out."""

    NONE = auto()
    LATER = auto()  # exactly those of keys behind their query: attention is causal
    SOME = auto()  # others, or it depends on inputs


def hidden_by(site: Site, mask: Value, rows: int, columns: int) -> Hidden:
    """What a mask hides of `rows` queries by `columns` keys; it is evaluated once."""
    array = None if mask.type.elements > _LARGEST else _evaluated(site, mask)
    if array is None:
        return Hidden.SOME
    boolean = mask.type.dtype is DType.BOOL
    kept = array != 0 if boolean else array == 0
    if kept.all():
        return Hidden.NONE
    lower = np.tri(rows, columns, dtype=bool)
    if kept.shape[-2:] != lower.shape or not np.all(kept == lower):
        return Hidden.SOME
    return Hidden.LATER if boolean or np.all(array <= _HIDDEN, where=~lower) else Hidden.SOME


def _evaluated(site: Site, value: Value) -> np.ndarray | None:
    """The content of a value that depends on constants alone, without storing it in the model."""
    nodes = _behind(site, value)
    if nodes is None:
        return None
    if not nodes:
        item = site.constant_of(value)
        return None if item is None else to_floats(item)
    if site.ctx.evaluate is None:
        return None
    read = {operand for node in nodes for operand in node.inputs}
    constants = {v: item for v, item in site.builder.constants.items() if v in read}
    (item,) = site.ctx.evaluate(Graph("mask", (), nodes, (value,), constants), ())
    return to_floats(item)


def _behind(site: Site, value: Value) -> tuple[Node, ...] | None:
    """The nodes that make `value`, in order; None when they are many or one reads an input."""
    reads: dict[Node, set[Node]] = {}
    waiting = [value]
    while waiting:
        operand = waiting.pop()
        item, node = site.constant_of(operand), site.producer(operand)
        if node is None and (item is None or isinstance(item.source, Absent)):
            return None
        if node is None or node in reads:
            continue
        if len(reads) == _NODES:
            return None
        reads[node] = {made for v in node.inputs if (made := site.producer(v)) is not None}
        waiting.extend(node.inputs)
    return tuple(TopologicalSorter(reads).static_order())
