"""The table of what lossy passes changed and whether they paid, below the closing table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optc.cli.terminal import console, plain_table

if TYPE_CHECKING:
    from optc.driver import Compiled


def show_payoffs(compiled: Compiled) -> None:
    """Print it; nothing where no lossy pass changed anything."""
    from optc.report.payoff import HEADS, payoff_rows, payoff_words

    rows = list(payoff_rows(compiled.passes))
    if not rows:
        return
    table = plain_table(*HEADS)
    for row in rows:
        table.add_row(*row.cells)
    console().print(table)
    console().print(payoff_words(compiled.passes, compiled.timings))
