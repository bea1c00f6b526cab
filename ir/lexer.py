"""Tokens of the text form, each with its place, and errors that point at it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from optc.ir.diagnostics import Loc, OptcError, error

_TOKEN = re.compile(
    r"""(?P<skip>[ \t\r\n]+|//[^\n]*)
      | (?P<type>(?:\d+x)*(?:f64|f32|f16|bf16|i64|i32|i16|i8|u8|i4|bool)\b)
      | (?P<number>-?(?:\d+\.?\d*(?:e[+-]?\d+)?|inf\b|nan\b))
      | (?P<value>%[A-Za-z0-9_.]+)
      | (?P<symbol>@[A-Za-z0-9_.\-]+)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<word>[A-Za-z_][A-Za-z0-9_.]*)
      | (?P<mark>[{}()\[\]=,:@])""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text, what kind it is, and where it starts."""

    kind: str
    text: str
    offset: int


class Source:
    """The text being read, and its tokens."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.tokens = self._tokens()

    def _tokens(self) -> list[Token]:
        tokens: list[Token] = []
        offset = 0
        while offset < len(self.text):
            found = _TOKEN.match(self.text, offset)
            if found is None:
                raise self.error(f"unexpected character {self.text[offset]!r}", offset)
            if found.lastgroup != "skip":
                tokens.append(Token(str(found.lastgroup), found.group(), offset))
            offset = found.end()
        return [*tokens, Token("end", "", len(self.text))]

    def error(self, message: str, offset: int) -> OptcError:
        """E0101 with the line, the column and a caret under the place."""
        line = self.text.count("\n", 0, offset) + 1
        start = self.text.rfind("\n", 0, offset) + 1
        end = self.text.find("\n", offset)
        excerpt = self.text[start : end if end >= 0 else None]
        caret = " " * (offset - start) + "^"
        return error(
            "E0101",
            f"{message} at line {line}, column {offset - start + 1}",
            loc=Loc(self.name, line),
            excerpt=f"{excerpt}\n{caret}",
            help="optc ops lists every op with its attributes",
        )
