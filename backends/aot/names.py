"""How a program's names are spelled in C."""

from __future__ import annotations

import re

_KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline "
    "int long register restrict return short signed sizeof static struct switch typedef union "
    "unsigned void volatile while class new delete this template namespace operator private public "
    "protected virtual try catch throw true false bool main optc".split()
)


def identifier(name: str) -> str:
    """A C identifier for `name`, which may hold anything; the same name gives the same identifier."""
    text = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_").lower()
    if not text:
        return "model"
    return f"m_{text}" if text[0].isdigit() or text in _KEYWORDS else text


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
