"""Whether a manifest tells of the library that lies beside it: what its ports take, it reads.

Buffers are made by the manifest and filled by the library, which has its own idea of their size.
A manifest edited by hand, or copied from another artifact, must not make one run past the other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

from optc.arrays import Tensor
from optc.ir.diagnostics import error


class _Port(ctypes.Structure):
    """`optc_port` of model.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("rank", ctypes.c_int),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("bytes", ctypes.c_size_t),
        ("alignment", ctypes.c_size_t),
    )


def check_ports(
    library: ctypes.CDLL, prefix: str, model: str, ports: Mapping[str, Sequence[Tensor]]
) -> None:
    """Raise E0514 where the library's ports, by kind (input, output, state), are not `ports`."""
    for kind, told in ports.items():
        found = _ports(library, f"{prefix}_{kind}")
        if found != list(told):
            texts = ["; ".join(map(str, each)) or "none" for each in (told, found)]
            raise error(
                "E0514",
                f"the manifest of {model} is not its library's: it tells of {kind}s {texts[0]}, "
                f"the library has {texts[1]}",
                help="copy or compile it again",
            )


def _ports(library: ctypes.CDLL, function: str) -> list[Tensor]:
    count, ask = getattr(library, f"{function}_count"), getattr(library, function)
    count.restype, ask.restype = ctypes.c_int, ctypes.POINTER(_Port)
    return [_tensor(ask(ctypes.c_int(index)).contents) for index in range(count())]


def _tensor(port: _Port) -> Tensor:
    shape = tuple(port.shape[: port.rank]) if port.rank else ()
    return Tensor(port.name.decode(), shape, port.dtype.decode())
