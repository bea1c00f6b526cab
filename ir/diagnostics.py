"""What optc tells people: one coded diagnostic with the place and a help line that can be typed.

Codes are `E....` for the user's error, `W....` for a warning, `N....` for a remark; `optc explain
CODE` prints the page that `ir/codes.py` holds for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad it is."""

    ERROR = "error"
    WARNING = "warning"
    REMARK = "remark"


@dataclass(frozen=True, slots=True)
class Loc:
    """A place in the user's source: where the model's author wrote what became a node."""

    file: str = ""
    line: int = 0
    scope: str = ""  # module path in the model, such as `encoder.layer.0.attention`

    def __bool__(self) -> bool:
        return bool(self.file or self.scope)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else ""
        return f"{place} ({self.scope})" if place and self.scope else place or self.scope


NOWHERE = Loc()


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding: code, what happened, where, the IR around it, and what to type next."""

    code: str
    message: str
    severity: Severity = Severity.ERROR
    loc: Loc = NOWHERE
    excerpt: str = ""
    help: str = ""

    def __str__(self) -> str:
        lines = [f"{self.severity.value}[{self.code}]: {self.message}"]
        if self.loc:
            lines.append(f"  --> {self.loc}")
        lines += [f"   | {line}" for line in self.excerpt.splitlines()]
        if self.help:
            lines.append(f"  help: {self.help}")
        return "\n".join(lines)


class OptcError(Exception):
    """The user's error, with one or more diagnostics; the command line exits with 1."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        self.diagnostics = diagnostics
        super().__init__("\n".join(map(str, diagnostics)))


class InternalError(Exception):
    """Our bug: a promise of the compiler was broken; the command line exits with 70."""


def error(
    code: str, message: str, *, loc: Loc = NOWHERE, excerpt: str = "", help: str = ""
) -> OptcError:
    """An `OptcError` of one diagnostic, ready to raise."""
    return OptcError(Diagnostic(code, message, Severity.ERROR, loc, excerpt, help))
