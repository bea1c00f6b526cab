"""Tokens of the text form, each with its place, and errors that point at it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from optc.ir.diagnostics import Loc, OptcError, error

T = TypeVar("T")
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


class Cursor:
    """A place in the tokens of a text, and what a parser does with them."""

    def __init__(self, text: str, name: str) -> None:
        self.source = Source(text, name)
        self.position = 0

    @property
    def next(self) -> Token:
        """The token that is read next."""
        return self.source.tokens[self.position]

    @property
    def peek(self) -> Token:
        """The token behind the next one."""
        return self.source.tokens[min(self.position + 1, len(self.source.tokens) - 1)]

    def fail(self, message: str, token: Token | None = None) -> OptcError:
        """The error E0101 at a token, by default the next one."""
        return self.source.error(message, (token or self.next).offset)

    def take(self, kind: str, what: str = "") -> Token:
        """Read a token of a kind; raises E0101 for another."""
        token = self.next
        if token.kind != kind:
            raise self.fail(f"expected {what or kind}, found {token.text or 'end of text'!r}")
        self.position += 1
        return token

    def accept(self, text: str) -> bool:
        """Read the token if it is this text; whether it was."""
        if self.next.text != text or self.next.kind == "string":
            return False
        self.position += 1
        return True

    def expect(self, text: str) -> None:
        """Read this text; raises E0101 for another."""
        if not self.accept(text):
            raise self.fail(f"expected {text!r}, found {self.next.text or 'end of text'!r}")

    def listed(self, item: Callable[[], T], end: str) -> list[T]:
        """Items up to `end`, with commas between them."""
        result: list[T] = []
        while not self.accept(end):
            result.append(item())
            if not self.accept(","):
                self.expect(end)
                break
        return result
