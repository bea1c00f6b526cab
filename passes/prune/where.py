"""Which layers a pass may touch, by their names in the model: `encoder.layer.0`, `*.query`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from optc.ir.diagnostics import error
from optc.ir.graph import Node


@dataclass(frozen=True, slots=True)
class Where:
    """Patterns of module paths; a path stands for all that is below it."""

    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def refusal(self, layers: Collection[Node]) -> str | None:
        """Why layers that go together stay, or None."""
        names = {layer.loc.scope for layer in layers}
        kept = [name for name in names if _matches(name, self.keep)]
        if kept:
            return f"keep names {min(kept)}"
        if self.only and not any(_matches(name, self.only) for name in names):
            return "only names others"
        return None

    def check(self, layers: Iterable[Node]) -> None:
        """Raise E0137 for a pattern that no layer has, with the nearest names."""
        names = sorted({layer.loc.scope for layer in layers if layer.loc.scope})
        for pattern in (*self.only, *self.keep):
            if any(_matches(name, (pattern,)) for name in names):
                continue
            near = get_close_matches(pattern, names, 2, 0.4)
            offer = f"; did you mean {' or '.join(near)}?" if near else ""
            raise error(
                "E0137",
                f"no layer of the model is called {pattern!r}{offer}",
                help=f"-p 'prune-channels{{keep=({near[0]})}}'" if near else "optc inspect MODEL",
            )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(
        fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in patterns
    )
