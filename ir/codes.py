"""The page behind every diagnostic code, read from `codes.md` beside this file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from optc.ir.diagnostics import error

_SECTION = re.compile(r"^## ([EWN]\d{4}) (.+)\n\n((?:(?!## ).*\n)+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Page:
    """What a code means and what to do about it."""

    title: str
    text: str


@cache
def pages() -> Mapping[str, Page]:
    """All pages by code, in the order of the file."""
    text = files("optc.ir").joinpath("codes.md").read_text(encoding="utf-8")
    found = {code: Page(title, body.strip()) for code, title, body in _SECTION.findall(text)}
    return MappingProxyType(found)


def page(code: str) -> Page:
    """The page of a code, in any case; raises E0704 with the nearest codes."""
    found = pages().get(code.upper())
    if found is None:
        near = get_close_matches(code.upper(), pages(), 3, 0.4)
        offer = f"; the nearest are {', '.join(near)}" if near else ""
        message = f"no diagnostic has the code {code!r}{offer}"
        raise error("E0704", message, help="optc explain E0140")
    return found
