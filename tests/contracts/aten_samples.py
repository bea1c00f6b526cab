"""Sample calls of every core ATen op: torch's own where it has some, written by hand elsewhere.

A case is a module whose inputs are all tensors of all its calls and whose outputs are all their
results, so that many calls cost one export and one compile. `case()` gives the one of a packet: a
few calls for each dtype, and up to two with an empty tensor.
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
    torch.float32: 5,
    torch.float64: 1,
    torch.float16: 1,
    torch.bfloat16: 1,
    torch.int64: 2,
    torch.int32: 1,
    torch.int8: 1,
    torch.uint8: 2,
    torch.bool: 2,
}
# The other floats of calls written by hand, where torch takes them.
_ALSO = (torch.float64, torch.float16, torch.bfloat16)
# Samples of torch that are about something else than the op's meaning.
_LEFT_OUT: Mapping[str, Callable[[Call], bool]] = {
    # A mask without axes, and boolean masks with as many updates as the data has true places.
    "index_put": lambda call: any(x.dtype is torch.bool for x in tensors(call.args[1])),
    # Two places of one tensor name the same element, and torch promises no order.
    "scatter": lambda call: "reduce" in call.kwargs,
}
# Among equal numbers torch promises no order, so that only values can be compared where a dtype has
# few numbers.
_VALUES_ONLY = {"sort", "topk"}


@dataclass(frozen=True, eq=False)
class Case:
    """All sample calls of one packet, as one module and its inputs."""

    packet: str
    calls: tuple[Call, ...]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Every tensor that a call takes, in order."""
        return tuple(x for call in self.calls for x in tensors((call.args, call.kwargs)))

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
            results += tensors(found)
        return tuple(results)


def tensors(item: object) -> list[Tensor]:
    """The tensors in nested arguments or results, in order."""
    return [leaf for leaf in pytree.tree_leaves(item) if isinstance(leaf, Tensor)]


@functools.cache
def case(packet: str) -> Case:
    """The case of one packet: the calls written by hand, else torch's samples of the op."""
    torch.manual_seed(0)
    if packet in BY_HAND:
        calls = list(BY_HAND[packet]())
        return Case(packet, (*calls, *_in_other_floats(calls)))
    left_out = _LEFT_OUT.get(packet, lambda _: False)
    found = [call for call in _from_torch(packet) if not left_out(call)]
    return Case(packet, tuple(found))


def _in_other_floats(calls: Sequence[Call]) -> Iterator[Call]:
    for dtype in _ALSO:
        for call in calls:
            args, kwargs = pytree.tree_map(
                functools.partial(_cast, dtype=dtype), (call.args, dict(call.kwargs))
            )
            other = Call(call.function, args, kwargs)
            if any(x.dtype is dtype for x in tensors((args, kwargs))) and _is_taken(other):
                yield other
                break


def _cast(item: object, dtype: torch.dtype) -> object:
    is_f32 = isinstance(item, Tensor) and item.dtype is torch.float32
    return item.to(dtype) if is_f32 else item


def _is_taken(call: Call) -> bool:
    """Whether torch has a kernel for these dtypes, and a dtype of ours for what it gives."""
    try:
        found = call.function(*call.args, **call.kwargs)
    except (RuntimeError, NotImplementedError):
        return False
    return torch.complex32 not in {x.dtype for x in tensors(found)}


def _from_torch(packet: str) -> Iterator[Call]:
    for info in _infos().get(packet, ())[:1]:
        for dtype, count in COUNTS.items():
            if dtype in info.dtypes:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    # info.sample_inputs() would look through the whole stack at every sample.
                    samples = list(info.sample_inputs_func(info, "cpu", dtype, False))
                ties = packet in _VALUES_ONLY and dtype not in (torch.float32, torch.float64)
                function = _values(info.op) if ties else info.op
                calls = [Call(function, (s.input, *s.args), dict(s.kwargs)) for s in samples]
                yield from _spread([call for call in calls if _is_small(call)], count)
                if dtype is torch.float32:
                    yield from [call for call in calls if _is_empty(call)][:2]


def _values(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: function(*args, **kwargs)[0]


def _spread(calls: list[Call], count: int) -> list[Call]:
    """`count` of the calls, from the whole length of the list."""
    if len(calls) <= count:
        return calls
    return [calls[place * (len(calls) - 1) // max(count - 1, 1)] for place in range(count)]


def _is_small(call: Call) -> bool:
    return all(0 < x.numel() <= LARGEST for x in tensors((call.args, call.kwargs)))


def _is_empty(call: Call) -> bool:
    return any(x.numel() == 0 for x in tensors((call.args, call.kwargs)))


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
