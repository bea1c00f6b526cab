"""Modules on disk: text in `graph.optc`, weights beside it in `graph.optc.weights`.

The weights file is a safetensors file (8-byte header length, JSON header, tensors back to back)
whose tensors are named by digest, so equal weights are stored once and other tools can open it.
Reading maps the file: a model of several GB costs no memory until its weights are touched.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from optc.ir.constant import Absent, Constant, Seed, Splat
from optc.ir.diagnostics import OptcError, error
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.module import Module
from optc.ir.ops.task import Task
from optc.ir.output import replace_file
from optc.ir.printer import INLINE_ELEMENTS, print_module
from optc.ir.text import parse

SUFFIX = ".weights"
ALIGNMENT = 64  # of the first tensor; the others follow by falling element size, so all are aligned
MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors format
_NAMES: Mapping[DType, str] = {
    DType.F64: "F64", DType.F32: "F32", DType.F16: "F16", DType.BF16: "BF16", DType.I64: "I64",
    DType.I32: "I32", DType.I16: "I16", DType.I8: "I8", DType.U8: "U8", DType.I4: "I8",
    DType.BOOL: "BOOL",
}  # fmt: skip
_STORAGE: Mapping[str, np.dtype[Any]] = {name: dtype.storage for dtype, name in _NAMES.items()}


def save(module: Module, path: Path, *, weights: bool = True) -> None:
    """Write a module's text, and its weights beside it; raises E0150 or E0151."""
    items = [item for item in stored_constants(module) if not isinstance(item.source, Absent)]
    if weights and items:
        write_weights(items, weights_path(path))
    with replace_file(path) as aside:
        aside.write_text(print_module(module), encoding="utf-8")


def load(path: Path, *, check: bool = True) -> Module:
    """Read a module and map its weights; those without a file stay known by digest only.

    `check` compares each weight with its digest (which reads them all). Raises E0101 for text that
    cannot be parsed, E0111 for a damaged weights file, E0112 for a file that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is not text"
        raise error("E0112", f"cannot read {path}: {reason}") from None
    beside = weights_path(path)
    mapped = read_weights(beside) if beside.exists() else {}
    module = parse(text, weights=mapped, name=str(path))
    if check:
        _check(module, mapped, beside)
    return module


def weights_path(path: Path) -> Path:
    """Where the weights of the module at `path` lie."""
    return path.with_name(path.name + SUFFIX)


def stored_constants(module: Module) -> Iterator[Constant]:
    """The constants that text names by digest, each digest once, those inside tasks included."""
    seen: set[str] = set()
    for item in all_constants(module):
        if isinstance(item.source, Splat | Seed) or item.type.elements <= INLINE_ELEMENTS:
            continue
        if item.digest not in seen:
            seen.add(item.digest)
            yield item


def all_constants(module: Module) -> Iterator[Constant]:
    """Every constant of a module: states' first contents, graphs' and tasks' constants."""
    yield from (state.initial for state in module.states)
    for graph in module.graphs:
        yield from graph_constants(graph)


def graph_constants(graph: Graph) -> Iterator[Constant]:
    """Every constant of a graph and of the tasks in it."""
    yield from graph.constants.values()
    for node in graph.nodes:
        if isinstance(node.op, Task):
            yield from graph_constants(node.op.body)


def write_weights(items: Iterable[Constant], path: Path) -> None:
    """Write constants as one safetensors file, named by digest."""
    ordered = sorted(items, key=lambda item: (-item.type.dtype.storage.itemsize, item.digest))
    header: dict[str, object] = {"__metadata__": {"format": "optc"}}
    offset = 0
    for item in ordered:
        size = item.type.elements * item.type.dtype.storage.itemsize
        header[item.digest] = {
            "dtype": _NAMES[item.type.dtype],
            "shape": list(item.type.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with replace_file(path) as aside, aside.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for item in ordered:
            file.write(np.ascontiguousarray(item.array).reshape(-1).view(np.uint8).data)


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Map a weights file: read-only arrays by digest; raises E0111 or E0112."""
    try:
        with path.open("rb") as file:
            header, start = _header(path, file)
            file.seek(0)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as problem:
        raise error("E0112", f"cannot read {path}: {problem.strerror}") from None
    try:
        return {name: _array(mapped, start, entry) for name, entry in header.items()}
    except (KeyError, TypeError, ValueError, OverflowError) as problem:
        raise _damaged(path, f"its header does not fit its content ({problem})") from None


def _header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], int]:
    length = file.read(8)
    size = struct.unpack("<Q", length)[0] if len(length) == 8 else MAX_HEADER + 1
    if size > MAX_HEADER:
        raise _damaged(path, "it is not a weights file")
    try:
        header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        return dict(header), 8 + size
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise _damaged(path, "its header cannot be read") from None


def _array(mapped: mmap.mmap, start: int, entry: Mapping[str, Any]) -> np.ndarray:
    dtype, shape = _STORAGE[entry["dtype"]], tuple(int(dim) for dim in entry["shape"])
    begin, end = entry["data_offsets"]
    if begin < 0 or end - begin != math.prod(shape) * dtype.itemsize or start + end > len(mapped):
        raise ValueError(f"bytes {begin} to {end}")
    count = math.prod(shape)
    return np.frombuffer(mapped, dtype, count, start + begin).reshape(shape)


def _check(module: Module, mapped: Mapping[str, np.ndarray], path: Path) -> None:
    known = {id(array): digest for digest, array in mapped.items()}
    for item in stored_constants(module):
        wanted = None if isinstance(item.source, Absent) else known.get(id(item.array))
        if wanted is not None and item.digest != wanted:
            raise _damaged(path, f"constant {wanted[:12]} has other content than its digest says")


def _damaged(path: Path, reason: str) -> OptcError:
    return error(
        "E0111",
        f"{path} is damaged: {reason}",
        help="write it again, or copy it again from its source",
    )
