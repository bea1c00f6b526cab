"""Writes weights.bin: a header of 64 bytes, then every block at its offset, zeros between."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from optc.backends.aot.digest import BLOCK, Digest
from optc.backends.halves import fits, packed
from optc.backends.program import ALIGNMENT, Program, bytes_of
from optc.ir.diagnostics import InternalError

MAGIC = b"OPTCWTS\0"
VERSION = 1
_PIECE = 1024 * BLOCK  # 8 MiB: what is digested at once


def write_weights(program: Program, path: Path) -> int:
    """Writes the weights, one block in memory at a time; returns their digest."""
    digest = Digest()
    pending = bytearray()
    with path.open("wb") as file:
        file.write(bytes(ALIGNMENT))
        for chunk in _chunks(program):
            file.write(chunk)
            pending += chunk
            if len(pending) >= _PIECE:
                whole = len(pending) // BLOCK * BLOCK
                digest.update(bytes(pending[:whole]))
                del pending[:whole]
        digest.update(bytes(pending))
        file.seek(0)
        file.write(header(program.stored_bytes, digest.value()))
    return digest.value()


def header(data_bytes: int, digest: int) -> bytes:
    """The first 64 bytes of the file."""
    return struct.pack("<8sIIQQ", MAGIC, VERSION, ALIGNMENT, data_bytes, digest).ljust(
        ALIGNMENT, b"\0"
    )


def _chunks(program: Program) -> Iterator[bytes | memoryview]:
    end, saved = 0, 0
    narrow = set(program.narrow)
    for block in sorted(program.weights, key=lambda block: block.offset):
        array = block.load()
        if array.nbytes != block.nbytes or (block in narrow and not fits(array)):
            raise InternalError(f"a weight of {block.nbytes} bytes loaded as {array.nbytes}")
        data = bytes_of(packed(array) if block in narrow else array)
        saved += block.nbytes - len(data)
        yield bytes(block.offset - end)
        for start in range(0, len(data), _PIECE):
            yield data[start : start + _PIECE]
        end = block.offset + block.nbytes
    yield bytes(program.stored_bytes + saved - end)
