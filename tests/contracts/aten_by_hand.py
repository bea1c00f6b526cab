"""Sample calls written by hand, for core ATen ops that torch has no samples of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Call:
    """One call: a function and what it takes."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def _calls(function: Callable[..., Any], *arguments: tuple[Any, ...]) -> list[Call]:
    return [Call(function, args) for args in arguments]


def _floats(*shape: int) -> Tensor:
    return torch.randn(shape)


def _bools(*shape: int) -> Tensor:
    return torch.rand(shape) > 0.5


def _places(high: int, *shape: int) -> Tensor:
    return torch.randint(-high, high, shape)


def _first(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: function(*args)[0]


def _real(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its complex result as pairs."""
    return lambda *args: torch.view_as_real(function(*args))


def _of_complex(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a complex tensor that is given as pairs."""
    return lambda pairs, *args: function(torch.view_as_complex(pairs), *args)


def _convolutions() -> list[Call]:
    x1, x2, x3 = _floats(2, 4, 9), _floats(2, 4, 8, 7), _floats(1, 2, 5, 6, 4)
    none = [0, 0]
    return _calls(
        aten.convolution.default,
        (x1, _floats(6, 4, 3), _floats(6), [2], [1], [1], False, [0], 1),
        (x2, _floats(6, 4, 3, 3), _floats(6), [1, 1], [1, 1], [1, 1], False, none, 1),
        (x2, _floats(6, 2, 3, 2), None, [2, 1], [0, 1], [1, 2], False, none, 2),
        (x2, _floats(4, 1, 3, 3), _floats(4), [1, 1], [1, 1], [1, 1], False, none, 4),
        (x2, _floats(4, 3, 3, 3), _floats(3), [2, 2], [1, 1], [1, 1], True, [1, 1], 1),
        (x2, _floats(4, 2, 2, 3), None, [2, 1], none, [1, 1], True, none, 2),
        (
            x3,
            _floats(3, 2, 2, 3, 2),
            _floats(3),
            [1, 1, 1],
            [1, 1, 0],
            [1, 1, 1],
            False,
            [0] * 3,
            1,
        ),
        (x3, _floats(2, 3, 2, 3, 2), None, [1, 2, 1], [0, 1, 0], [1, 1, 1], True, [0] * 3, 1),
    )


def _bags() -> list[Call]:
    weight, indices = _floats(10, 4), torch.randint(10, (8,))
    offsets = torch.tensor([0, 3, 3, 6])
    bag = _first(aten._embedding_bag.default)
    scales = _floats(8)
    return _calls(
        bag,
        (weight, indices, offsets),
        (weight, indices, offsets, False, 1),
        (weight, indices, offsets, False, 2),
        (weight, indices, offsets, False, 0, False, scales),
        (weight, indices, torch.tensor([0, 3, 8]), False, 0, False, None, True),
        (weight, indices, offsets, False, 0, False, None, False, 3),
        (weight, indices, offsets, False, 1, False, None, False, 3),
    )


def _index() -> list[Call]:
    x = _floats(4, 5, 6)
    mask = torch.tensor([True, False, True, True])
    fixed = Call(lambda x: aten.index.Tensor(x, [mask]), (x,))
    calls = _calls(
        aten.index.Tensor,
        (x, [_places(4, 3)]),
        (x, [None, _places(5, 2, 3)]),
        (x, [_places(4, 3), _places(5, 3)]),
        (x, [_places(4, 3, 1), None, _places(6, 2)]),
        (torch.arange(20).reshape(4, 5), [None, _places(5, 2)]),
        (_bools(4, 5), [_places(4, 2), _places(5, 2)]),
    )
    return [*calls, fixed]


def _index_put() -> list[Call]:
    x = _floats(4, 5)
    rows = torch.tensor([2, 0, -1])
    return [
        *_calls(
            aten.index_put.default,
            (x, [rows], _floats(3, 5)),
            (x, [rows], _floats(1), True),
            (x, [None, torch.tensor([4, 1])], _floats(4, 2)),
            (x, [rows, torch.tensor([1, 1, 0])], _floats(3)),
            (x, [torch.tensor([1, 1, 1])], _floats(3, 5), True),
            (x, [_bools(4, 5)], _floats(1)),
            (x, [_bools(4)], torch.tensor(2.0)),
            (torch.arange(6), [torch.tensor([1, 1])], torch.tensor([5, 6]), True),
        )
    ]


def _normalizations() -> dict[str, Callable[[], Sequence[Call]]]:
    def no_training() -> list[Call]:
        x, c = _floats(2, 3, 4, 5), [_floats(3) for _ in range(3)]
        spread = torch.rand(3) + 0.5
        rule = _first(aten._native_batch_norm_legit_no_training.default)
        return _calls(
            rule,
            (x, c[0], c[1], c[2], spread, 0.1, 1e-5),
            (x, None, None, c[2], spread, 0.1, 1e-3),
            (_floats(4, 3), c[0], c[1], c[2], spread, 0.1, 1e-5),
        )

    def legit() -> list[Call]:
        x, w, b = _floats(4, 3, 5), _floats(3), _floats(3)
        return [
            *_calls(
                aten._native_batch_norm_legit.no_stats,
                (x, w, b, True, 0.1, 1e-5),
                (_floats(4, 3, 2, 2), None, None, True, 0.1, 1e-3),
            ),
            *_calls(
                lambda x, w, b, m, v: aten._native_batch_norm_legit.default(
                    x, w, b, m.clone(), v.clone(), True, 0.1, 1e-5
                ),
                (x, w, b, _floats(3), torch.rand(3) + 0.5),
            ),
        ]

    return {
        "_native_batch_norm_legit_no_training": no_training,
        "_native_batch_norm_legit": legit,
    }


def _resizes() -> dict[str, Callable[[], Sequence[Call]]]:
    x = torch.linspace(-1, 1, 60).reshape(1, 3, 4, 5)
    return {
        "upsample_bilinear2d": lambda: _calls(
            aten.upsample_bilinear2d.vec,
            (x, [8, 10], False, None),
            (x, [7, 3], True, None),
            (x, None, False, [2.0, 1.5]),
        ),
        "upsample_nearest2d": lambda: _calls(
            aten.upsample_nearest2d.vec,
            (x, [8, 10], None),
            (x, [3, 9], None),
            (x, None, [2.0, 1.5]),
        ),
    }


def _pads() -> dict[str, Callable[[], Sequence[Call]]]:
    x1, x2, x3 = _floats(2, 3, 8), _floats(2, 3, 6, 7), _floats(1, 2, 4, 5, 6)
    return {
        "reflection_pad1d": lambda: _calls(
            aten.reflection_pad1d.default, (x1, [2, 3]), (x1[0], [1, 0])
        ),
        "reflection_pad2d": lambda: _calls(
            aten.reflection_pad2d.default, (x2, [2, 3, 1, 0]), (x2, [-1, 1, 0, 2])
        ),
        "reflection_pad3d": lambda: _calls(aten.reflection_pad3d.default, (x3, [1, 2, 3, 0, 1, 1])),
        "replication_pad2d": lambda: _calls(
            aten.replication_pad2d.default, (x2, [2, 3, 1, 0]), (x2, [-1, 9, 0, 2])
        ),
        "replication_pad3d": lambda: _calls(
            aten.replication_pad3d.default, (x3, [1, 2, 3, 0, 5, 1])
        ),
    }


def _pools() -> dict[str, Callable[[], Sequence[Call]]]:
    x2, x3 = _floats(2, 3, 9, 8), _floats(1, 2, 6, 7, 5)
    return {
        "_adaptive_avg_pool2d": lambda: _calls(
            aten._adaptive_avg_pool2d.default,
            (x2, [1, 1]),
            (x2, [3, 4]),
            (x2, [5, 3]),
            (x2[0], [2, 2]),
        ),
        "_adaptive_avg_pool3d": lambda: _calls(
            aten._adaptive_avg_pool3d.default, (x3, [1, 1, 1]), (x3, [3, 2, 4])
        ),
        "max_pool2d_with_indices": lambda: [
            *_calls(
                aten.max_pool2d_with_indices.default,
                (x2, [3, 2], [2, 2], [1, 1]),
                (x2, [2, 2], [2, 3], [0, 0], [2, 1], True),
                (x2[0], [2, 2]),
            ),
            *_calls(
                _first(aten.max_pool2d_with_indices.default), (x2, [3, 3], [2, 2], [1, 1], 1, True)
            ),
        ],
        "max_pool3d_with_indices": lambda: _calls(
            aten.max_pool3d_with_indices.default,
            (x3, [2, 3, 2], [2, 2, 1], [1, 1, 0]),
            (x3, [2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1], True),
        ),
    }


def _transforms() -> dict[str, Callable[[], Sequence[Call]]]:
    x, pairs = _floats(3, 4, 6), _floats(3, 4, 5, 2)
    return {
        "_fft_r2c": lambda: _calls(
            _real(aten._fft_r2c.default),
            (x, [2], 0, True),
            (x, [1, 2], 1, True),
            (x, [0], 2, False),
            (_floats(7), [0], 0, True),
        ),
        "_fft_c2r": lambda: _calls(
            _of_complex(aten._fft_c2r.default),
            (pairs, [2], 2, 8),
            (pairs, [2], 0, 9),
            (pairs, [0, 2], 1, 8),
        ),
    }


BY_HAND: Mapping[str, Callable[[], Sequence[Call]]] = {
    "convolution": _convolutions,
    "_embedding_bag": _bags,
    "index": _index,
    "index_put": _index_put,
    **_normalizations(),
    **_resizes(),
    **_pads(),
    **_pools(),
    **_transforms(),
    "_cdist_forward": lambda: _calls(
        aten._cdist_forward.default,
        *((_floats(4, 3), _floats(5, 3), p, None) for p in (0.0, 1.0, 2.0, 3.0, float("inf"))),
        (_floats(2, 4, 3), _floats(2, 5, 3), 2.0, 1),
    ),
    "_pdist_forward": lambda: _calls(
        aten._pdist_forward.default,
        *((_floats(5, 3), p) for p in (0.0, 1.0, 2.0, 3.0, float("inf"))),
    ),
    "_softmax": lambda: _calls(
        aten._softmax.default,
        (_floats(3, 4, 5), -1, False),
        (_floats(3, 4), 0, False),
        (_floats(), 0, False),
    ),
    "_log_softmax": lambda: _calls(
        aten._log_softmax.default, (_floats(3, 4, 5), -1, False), (_floats(3, 4), 0, False)
    ),
    "_to_copy": lambda: [
        Call(aten._to_copy.default, (x,), {"dtype": dtype})
        for x in (3 * _floats(3, 4), torch.arange(-3, 5), _bools(4))
        for dtype in (
            torch.float32,
            torch.float16,
            torch.int64,
            torch.int32,
            torch.uint8,
            torch.bool,
        )
        if not (dtype is torch.uint8 and x.min() < 0)  # undefined in C
    ],
    "alias": lambda: _calls(aten.alias.default, (_floats(3, 4),), (torch.arange(4),)),
    "copy": lambda: _calls(
        aten.copy.default, (_floats(3, 4), _floats(4)), (_floats(3, 4), torch.arange(4))
    ),
    "col2im": lambda: _calls(
        aten.col2im.default,
        (_floats(2, 12, 12), [4, 5], [2, 2], [1, 1], [0, 0], [1, 1]),
        (_floats(1, 8, 9), [5, 5], [2, 2], [2, 2], [1, 1], [2, 2]),
    ),
    "elu": lambda: _calls(
        aten.elu.default, (_floats(3, 4),), (_floats(3, 4), 0.5), (_floats(3, 4), 1.5, 1.1, 0.7)
    ),
    "embedding": lambda: _calls(
        aten.embedding.default,
        (_floats(10, 4), torch.randint(10, (3, 5))),
        (_floats(10, 4), torch.randint(10, (), dtype=torch.int32)),
    ),
    "empty": lambda: [
        Call(lambda x: x + 0 * torch.zeros_like(torch.empty(3, 4)), (_floats(3, 4),))
    ],
    "empty_strided": lambda: [
        Call(lambda x: x + torch.zeros_like(torch.empty_strided((3, 4), (4, 1))), (_floats(3, 4),))
    ],
    "nonzero": lambda: _calls(aten.nonzero.default, (_floats(3, 4),)),
    "_local_scalar_dense": lambda: _calls(lambda x: x * x.sum().item(), (_floats(3),)),
}
