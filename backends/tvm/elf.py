"""Reads the one thing we ask of an object file: which symbols it leaves to the linker."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_SYMBOL_TABLE = 2
_UNDEFINED_SECTION = 0


def undefined_symbols(data: bytes) -> frozenset[str]:
    """Names that a little-endian ELF object (32 or 64 bits) uses and does not define.

    Raises ValueError when `data` is no such object.
    """
    if data[:4] != b"\x7fELF" or data[5] != 1:
        raise ValueError("not a little-endian ELF object")
    wide = data[4] == 2
    sections = list(_sections(data, wide))
    names: set[str] = set()
    for kind, offset, size, link in sections:
        if kind == _SYMBOL_TABLE:
            names.update(_undefined(data, offset, size, sections[link][1], wide))
    return frozenset(names - {""})


def _sections(data: bytes, wide: bool) -> Iterator[tuple[int, int, int, int]]:
    """(type, offset, size, link) of each section."""
    start = struct.unpack_from("<Q" if wide else "<I", data, 40 if wide else 32)[0]
    entry, count = struct.unpack_from("<HH", data, 58 if wide else 46)
    layout = "<IIQQQQI" if wide else "<IIIIIII"
    for i in range(count):
        _, kind, _, _, offset, size, link = struct.unpack_from(layout, data, start + i * entry)
        yield kind, offset, size, link


def _undefined(data: bytes, offset: int, size: int, strings: int, wide: bool) -> Iterator[str]:
    entry = 24 if wide else 16
    for at in range(offset, offset + size, entry):
        (name,) = struct.unpack_from("<I", data, at)
        (section,) = struct.unpack_from("<H", data, at + (6 if wide else 14))
        if section == _UNDEFINED_SECTION:
            end = data.index(b"\0", strings + name)
            yield data[strings + name : end].decode()
