"""The terminal as the commands see it: one console, tables with a rule under their head."""

from __future__ import annotations

import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 140  # columns when stdout is a file or a pipe, where no terminal says


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr; colours only at a terminal, and text is taken as it stands."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Text from pieces, each plain or with its style."""
    return Text.assemble(*parts)


def plain_table(*columns: str, numbers: tuple[str, ...] = (), title: str = "") -> Table:
    """A table with a ruled head; the columns named in `numbers` are set to the right."""
    table = Table(
        box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False, show_edge=False
    )
    for column in columns:
        right = column in numbers
        table.add_column(column, justify="right" if right else "left", no_wrap=right)
    return table
