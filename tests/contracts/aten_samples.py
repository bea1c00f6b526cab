"""Sample calls of every core ATen op: torch's own where it has some, written by hand elsewhere.

`cases()` gives one case per packet. A case is a module whose inputs are all tensors of all its
calls and whose outputs are all their results, so that a packet costs one export and one compile.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.contracts.aten_by_hand import BY_HAND, Call

aten = torch.ops.aten
LARGEST = 8000  # elements of a sample's largest tensor
COUNTS: Mapping[torch.dtype, int] = {
    torch.float32: 4,
    torch.int64: 2,
    torch.uint8: 1,
    torch.bool: 1,
}
# Samples of torch that are about something else than the op's meaning.
_LEFT_OUT: Mapping[str, Callable[[Call], bool]] = {
    # A mask without axes, and boolean masks with as many updates as the data has true places.
    "index_put": lambda call: any(x.dtype is torch.bool for x in _tensors(call.args[1])),
    # Two places of one tensor name the same element, and torch promises no order.
    "scatter": lambda call: "reduce" in call.kwargs,
}
# Among equal numbers torch promises no order, so that only the values of integers can be compared.
_VALUES_ONLY = {"sort", "topk"}


@dataclass(frozen=True, eq=False)
class Case:
    """All sample calls of one packet, as one module and its inputs."""

    packet: str
    calls: tuple[Call, ...]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Every tensor that a call takes, in order."""
        return tuple(x for call in self.calls for x in _tensors((call.args, call.kwargs)))

    def module(self) -> torch.nn.Module:
        """A module from all inputs to the results of all calls, each flattened to tensors."""
        return _Calls(self.calls)


class _Calls(torch.nn.Module):
    def __init__(self, calls: Sequence[Call]) -> None:
        super().__init__()
        self.calls = tuple(calls)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Results of all calls."""
        rest = iter(inputs)
        results: list[Tensor] = []
        for call in self.calls:
            args, kwargs = pytree.tree_map(
                lambda item: next(rest) if isinstance(item, Tensor) else item,
                (call.args, call.kwargs),
            )
            found = call.function(*args, **kwargs)
            results += _tensors(found)
        return tuple(results)


def _tensors(item: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(item) if isinstance(leaf, Tensor)]


def cases(packets: Sequence[str]) -> Iterator[Case]:
    """A case for each packet."""
    for packet in packets:
        yield case(packet)


@functools.cache
def case(packet: str) -> Case:
    """The case of one packet: the calls written by hand, else torch's samples of the op."""
    torch.manual_seed(0)
    if packet in BY_HAND:
        return Case(packet, tuple(BY_HAND[packet]()))
    left_out = _LEFT_OUT.get(packet, lambda _: False)
    found = [call for call in _from_torch(packet) if not left_out(call)]
    return Case(packet, tuple(found))


def _from_torch(packet: str) -> Iterator[Call]:
    for info in _infos().get(packet, ())[:1]:
        for dtype, count in COUNTS.items():
            if dtype in info.dtypes:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    samples = list(info.sample_inputs("cpu", dtype))
                ties = packet in _VALUES_ONLY and not dtype.is_floating_point
                function = _values(info.op) if ties else info.op
                calls = [Call(function, (s.input, *s.args), dict(s.kwargs)) for s in samples]
                yield from _spread([call for call in calls if _is_small(call)], count)


def _values(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: function(*args, **kwargs)[0]


def _spread(calls: list[Call], count: int) -> list[Call]:
    """`count` of the calls, from the whole length of the list."""
    if len(calls) <= count:
        return calls
    return [calls[place * (len(calls) - 1) // max(count - 1, 1)] for place in range(count)]


def _is_small(call: Call) -> bool:
    sizes = [x.numel() for x in _tensors((call.args, call.kwargs))]
    return not any(size > LARGEST or size == 0 for size in sizes)


@functools.cache
def _infos() -> Mapping[str, list[Any]]:
    from torch.testing._internal.common_methods_invocations import op_db

    found: dict[str, list[Any]] = {}
    for info in op_db:
        if not info.name.startswith(("sparse.", "_refs")):
            found.setdefault(info.aten_name or info.name, []).append(info)
    for info in op_db:
        found.setdefault(info.name.rpartition(".")[2], []).append(info)
    return found
