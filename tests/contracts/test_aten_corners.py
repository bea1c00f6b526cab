"""What torch's samples leave out: nan on either side, exponents beyond the width, nothing at all.

Each call is captured, compiled for the host, run, and compared with torch, all in one compilation.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.contracts.aten_by_hand import Call
from tests.contracts.aten_compiled import Sample, failures_of

NAN, INF = float("nan"), float("inf")
LEFT = torch.tensor([1.0, NAN, NAN, 2.0, -INF, INF, 0.0, -0.0])
RIGHT = torch.tensor([NAN, 1.0, NAN, 3.0, INF, NAN, -0.0, 0.0])
WHOLE = torch.tensor([-3, -2, -1, 0, 1, 2, 3, 7])
NO_PLACES = torch.zeros(0, dtype=torch.int64)


def extremes() -> dict[str, Call]:
    """What a nan beside a number gives."""
    both = (torch.fmax, torch.fmin, torch.maximum, torch.minimum, torch.remainder, torch.fmod)
    return {
        **{f"{f.__name__} of nan": Call(f, (LEFT, RIGHT)) for f in both},
        "fmax of f16": Call(torch.fmax, (LEFT.half(), RIGHT.half())),
        "fmin of integers": Call(torch.fmin, (WHOLE, WHOLE.flip(0))),
        "clamp of nan": Call(torch.clamp, (LEFT, -1, 1)),
        "max of nan": Call(lambda x: torch.max(x, 0), (LEFT,)),
        "top nan": Call(lambda x: torch.topk(x, 2), (torch.tensor([1.0, NAN, 3.0, 2.0]),)),
        "sorted nan": Call(lambda x: torch.sort(x, stable=True), (LEFT,)),
    }


def powers() -> dict[str, Call]:
    """Integers wrap, whatever the exponent; those below 0 leave only units."""
    numbers = (0, 1, 5, 31, 62, 63, 64, 65, 100, 2**31)
    small = torch.tensor([0, 1, 2, 3, 255], dtype=torch.uint8)
    return {
        **{f"i64 ** {n}": Call(torch.pow, (WHOLE, n)) for n in numbers},
        **{f"i32 ** {n}": Call(torch.pow, (WHOLE.int(), n)) for n in (31, 32, 64, 77)},
        **{f"u8 ** {n}": Call(torch.pow, (small, n)) for n in (3, 8, 64)},
        "units ** negative": Call(torch.pow, (WHOLE[[1, 2, 4, 6]], WHOLE[:4] - 1)),
        "2 ** integers": Call(torch.pow, (2, torch.tensor([0, 1, 63, 64, 65]))),
        "shifts": Call(lambda x: ((x << 3) >> 1) + (x >> x.abs()), (WHOLE,)),
    }


def empties() -> dict[str, Call]:
    """Tensors without elements, and what reads them beside others."""
    table, rows = torch.randn(4, 3), torch.randn(0, 3)
    no_rows = torch.zeros(0, 3, dtype=torch.int64)
    return {
        "product over nothing": Call(torch.matmul, (torch.randn(3, 0), torch.randn(0, 4))),
        "linear of nothing": Call(
            functional.linear, (torch.randn(3, 0), torch.randn(4, 0), torch.randn(4))
        ),
        "no images": Call(functional.conv2d, (torch.randn(0, 3, 8, 8), torch.randn(4, 3, 3, 3))),
        "concat": Call(lambda x, y: torch.cat([x, y], 1), (torch.randn(2, 0), torch.randn(2, 3))),
        "mean": Call(torch.mean, (torch.randn(0),)),
        "sum and product": Call(lambda x: (x.sum(0), x.prod(0)), (rows,)),
        "rows": Call(lambda x, i: x[i], (table, NO_PLACES)),
        "index_put": Call(lambda x, i, y: x.index_put((i,), y), (table, NO_PLACES, rows)),
        "scatter": Call(lambda x, i, y: x.scatter(0, i, y), (table, no_rows, rows)),
        "bag": Call(
            lambda w, i, o: functional.embedding_bag(i, w, o, mode="sum"),
            (table, NO_PLACES, torch.tensor([0, 0])),
        ),
        "attention": Call(
            functional.scaled_dot_product_attention,
            (torch.randn(1, 2, 3, 4), torch.randn(1, 2, 0, 4), torch.randn(1, 2, 0, 4)),
        ),
        "pad": Call(lambda x: functional.pad(x, (1, 2)), (torch.randn(2, 0),)),
        "reshape": Call(lambda x: torch.stack([x, x]).reshape(0, 5), (rows,)),
    }


def scalars() -> dict[str, Call]:
    """Tensors without axes."""

    def floats(x: Tensor, y: Tensor) -> Tensor:
        return (x + y).sum() * x.mean() - y.softmax(0)

    return {
        "floats": Call(floats, (torch.tensor(2.0), torch.tensor(3.0))),
        "dot": Call(torch.dot, (torch.randn(4), torch.randn(4))),
        "integers": Call(lambda x: x.sum().max().cumsum(0), (WHOLE,)),
    }


def recurrences() -> dict[str, Call]:
    """nn.RNN, which has no op of its own: torch.export spells out its steps."""
    x = torch.randn(5, 2, 4)
    return {
        "tanh": Call(nn.RNN(4, 3).eval(), (x,)),
        "relu": Call(nn.RNN(4, 3, nonlinearity="relu", num_layers=2).eval(), (x,)),
        "both ways": Call(nn.RNN(4, 3, bidirectional=True, batch_first=True).eval(), (x,)),
        "cell": Call(nn.RNNCell(4, 3).eval(), (x[0],)),
    }


@functools.cache
def corners() -> Mapping[str, Call]:
    """All calls by name."""
    torch.manual_seed(0)
    return {**extremes(), **powers(), **empties(), **scalars(), **recurrences()}


@functools.cache
def failures() -> Mapping[str, list[str]]:
    """What went wrong, by the call's name."""
    samples = [Sample(name, 0, call) for name, call in corners().items()]
    found: dict[str, list[str]] = {}
    for sample, text in failures_of(samples):
        found.setdefault(sample.packet, []).append(text)
    return found


@pytest.mark.parametrize("name", corners())
def test_agrees_with_torch(name: str) -> None:
    assert not failures().get(name), "\n\n".join(failures()[name])
