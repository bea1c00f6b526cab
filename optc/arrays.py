"""Between a caller's arrays and an artifact's ports: what fits, and why the rest does not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.ir.diagnostics import OptcError, error

_STORAGE = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "uint16",  # raw bits: numpy has no bfloat16
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "i4": "int8",
    "bool": "bool",
}
_NAMES = {name: dtype for dtype, name in _STORAGE.items() if dtype not in ("bf16", "i4")}
_UNFIT = re.compile(r"[^A-Za-z0-9_.]+")  # in keys: as capture names the inputs
_ALIGNMENT = 64  # of the arrays we make: a cache line, the widest vector


@dataclass(frozen=True)
class Tensor:
    """An input, output or state of an artifact."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @staticmethod
    def of(entry: Mapping[str, Any]) -> Tensor:
        """From its entry in the manifest; raises KeyError, TypeError or ValueError."""
        name, dtype = entry["name"], entry["dtype"]
        shape = tuple(entry["shape"])
        if not isinstance(name, str) or not all(type(d) is int and 0 <= d < 1 << 48 for d in shape):
            raise ValueError("a port without a name or with an impossible shape")
        if dtype not in _STORAGE:
            raise ValueError(f"an unknown dtype {dtype!r}")
        return Tensor(name, shape, dtype)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the dense array."""
        return prod(self.shape) * self.storage.itemsize

    @cached_property
    def storage(self) -> np.dtype[Any]:
        """The numpy dtype that holds it."""
        return np.dtype(_STORAGE[self.dtype])

    def __str__(self) -> str:
        return f"{self.name}: {'x'.join(map(str, (*self.shape, self.dtype)))}"


def bind(
    ports: Sequence[Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[NDArray[Any]]:
    """One dense, aligned array for each port, from positional and named arguments.

    Raises E0520 when names do not match, E0521 for a wrong shape, E0522 for a wrong dtype and E0523
    for what is no array.
    """
    names = [port.name for port in ports]
    given: dict[str, Any] = {}
    count = 0
    for arg in args:
        part = _leaves("", arg)
        window = names[count : count + len(part)]
        order = _order(part, window, keyed=isinstance(arg, Mapping))
        given.update(zip(order, part.values(), strict=False))
        count += len(part)
    named = {name: item for key, arg in kwargs.items() for name, item in _leaves(key, arg).items()}
    too_many = f"{count} positional arrays for {len(ports)} inputs"
    wrong = [
        *([too_many] if count > len(ports) else ()),
        *(f"no input is called {name!r}" for name in (*given, *named) if name not in names),
        *(f"{name!r} is given twice" for name in named if name in given),
        *(f"{name!r} is missing" for name in names if name not in given and name not in named),
    ]
    if wrong:
        expected = "; ".join(map(str, ports)) or "none"
        raise error(
            "E0520",
            f"{', '.join(wrong)}; the inputs are: {expected}",
            help="optc inspect out/",
        )
    given |= named
    return [fit(port, given[port.name]) for port in ports]


def fit(port: Tensor, value: Any) -> NDArray[Any]:
    """`value` as a dense array for `port`; the array itself where it is one already."""
    array = _as_array(port, value)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype != port.storage:
        # ml_dtypes' bfloat16 has the same bits as our uint16.
        if port.dtype == "bf16" and array.dtype.name == "bfloat16":
            array = array.view(np.uint16)
        else:
            raise _wrong_dtype(port, array)
    if array.shape != port.shape:
        raise error(
            "E0521",
            f"input {port.name!r} has shape {_shape(array.shape)}, expected {port}",
            help="compile the model for this shape, or pad, slice or transpose the input",
        )
    if not array.flags.c_contiguous or not array.flags.aligned:
        dense = empty(port)
        dense[...] = array
        return dense
    return array


def empty(port: Tensor) -> NDArray[Any]:
    """A new dense array for `port` whose first byte lies on a cache line."""
    block = np.empty(port.nbytes + _ALIGNMENT, dtype=np.uint8)
    start = -block.ctypes.data % _ALIGNMENT
    return np.ndarray(port.shape, port.storage, block, start)


def nest(tree: Any, arrays: Sequence[NDArray[Any]]) -> Any:
    """`arrays` in the structure of the manifest; without one a single array, a tuple, or None."""
    if tree is None:
        return arrays[0] if len(arrays) == 1 else tuple(arrays) or None
    return _nest(tree, arrays)


def check_tree(tree: Any, count: int) -> None:
    """Raises ValueError unless `tree` is a structure over `count` outputs."""
    match tree:
        case None:
            return
        case bool():
            raise ValueError("the output structure is damaged")
        case int() if 0 <= tree < count:
            return
        case {"tuple": list(items), **rest} | {"list": list(items), **rest} if not rest:
            for item in items:
                check_tree(item, count)
        case {"dict": dict(items), **rest} if not rest:
            for item in items.values():
                check_tree(item, count)
        case _:
            raise ValueError("the output structure is damaged")


def _nest(tree: Any, arrays: Sequence[NDArray[Any]]) -> Any:
    match tree:
        case None:
            return None
        case int():
            return arrays[tree]
        case {"tuple": items}:
            return tuple(_nest(item, arrays) for item in items)
        case {"list": items}:
            return [_nest(item, arrays) for item in items]
    return {key: _nest(item, arrays) for key, item in tree["dict"].items()}


def _leaves(name: str, value: Any) -> dict[str, Any]:
    """The arrays in a nested argument by dotted name; None stands for no input, as in a model."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        value = dict(zip(value._fields, value, strict=True))
    if isinstance(value, Mapping):
        items = [(_UNFIT.sub("_", str(key)), item) for key, item in value.items()]
    elif isinstance(value, (tuple, list)):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {} if value is None else {name: value}
    return {k: v for key, item in items for k, v in _leaves(f"{name}.{key}", item).items()}


def _order(part: Mapping[str, Any], window: Sequence[str], *, keyed: bool) -> Sequence[str]:
    """Which of the next inputs each array of a positional argument is.

    Dictionaries go by their keys, in whatever order they are written; plain sequences by order.
    """
    first = next(iter(window), "")
    for end in (index for index, letter in enumerate(first) if letter == "."):
        names = [first[:end] + path for path in part]
        if sorted(names) == sorted(window):
            return names
    return [first.partition(".")[0] + path for path in part] if keyed and window else window


def _as_array(port: Tensor, value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    try:
        if hasattr(value, "__array_interface__"):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        if isinstance(value, (bool, int, float)) and port.shape == ():
            return np.asarray(value, dtype=port.storage)
    except Exception as problem:  # whatever a foreign array raises when it will not be read
        detach = "; a tensor that requires gradients: x.detach()" if "grad" in str(problem) else ""
        bf16 = "; bfloat16: pass its bits, x.view(torch.uint16)" if port.dtype == "bf16" else ""
        raise error(
            "E0523",
            f"input {port.name!r} ({type(value).__name__}) cannot be read: {problem}{detach}{bf16}",
        ) from problem
    raise error(
        "E0523",
        f"input {port.name!r} is a {type(value).__name__}, expected an array of {port}",
        help="pass a numpy array, or anything with __array_interface__ or __dlpack__",
    )


def _wrong_dtype(port: Tensor, array: NDArray[Any]) -> OptcError:
    got = _NAMES.get(array.dtype.name, array.dtype.name)
    hint = f"x.astype(np.{port.storage.name})"
    if port.dtype == "bf16":
        hint = "pass ml_dtypes.bfloat16, or the raw bits as np.uint16"
    return error(
        "E0522",
        f"input {port.name!r} has dtype {got}, expected {port.dtype} ({_shape(port.shape)})",
        help=hint,
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
