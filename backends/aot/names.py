"""How a program's names are spelled in C."""

from __future__ import annotations

import re


def identifier(name: str) -> str:
    """The prefix for `name`, which may hold anything, in C; equal names give equal prefixes."""
    text = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_").lower() or "model"
    # The runtime's own names begin with `optc`. Keywords need no care: a prefix never stands alone.
    return f"m_{text}" if not text[:1].isalpha() or text.startswith("optc") else text


def literal(text: str) -> str:
    """`text` as a C string literal, in ASCII."""
    pieces = []
    for byte in text.encode():
        char = chr(byte)
        if char in '"\\':
            pieces.append("\\" + char)
        elif 32 <= byte < 127 and char != "?":  # `??x` would be a trigraph
            pieces.append(char)
        else:
            pieces.append(f"\\{byte:03o}")
    return '"' + "".join(pieces) + '"'


def comment(text: str) -> str:
    """`text` such that it can stand inside a C comment."""
    return re.sub(r"[^\x20-\x7e]+", " ", text).replace("*/", "* /").replace("/*", "/ *")
