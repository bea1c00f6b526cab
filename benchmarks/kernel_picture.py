"""Shares of the limit as heat maps: a grid for each family of products, a column for the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.kernel_cells import Cell


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Families side by side, the same colours for the same share."""
    families = list(dict.fromkeys(cell.family for cell in cells))
    groups = [[cell for cell in cells if cell.family == family] for family in families]
    widths = [2.2 + 0.62 * len({cell.column for cell in group}) for group in groups]
    rows = max(len({cell.row for cell in group}) for group in groups)
    figure, panels = plt.subplots(
        1, len(groups), figsize=(sum(widths), 1.6 + 0.3 * rows), width_ratios=widths, squeeze=False
    )
    for axes, family, group in zip(panels[0], families, groups, strict=True):
        _panel(axes, family, group)
    figure.suptitle("per cent of what the machine could do at most", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _panel(axes: Axes, family: str, cells: Sequence[Cell]) -> None:
    rows = list(dict.fromkeys(cell.row for cell in cells))
    columns = list(dict.fromkeys(cell.column for cell in cells))
    share = np.full((len(rows), len(columns)), np.nan)
    for cell in cells:
        share[rows.index(cell.row), columns.index(cell.column)] = cell.limit / cell.seconds
    axes.imshow(100 * share, vmin=0, vmax=100, cmap="RdYlGn", aspect="auto")
    for (y, x), value in np.ndenumerate(share):
        if np.isfinite(value):
            axes.text(x, y, f"{value:.0%}"[:-1], ha="center", va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_xticks(range(len(columns)), columns if len(columns) > 1 else [""], fontsize=7)
    axes.tick_params(axis="x", rotation=45)
    axes.set_title(family + (": M by N x K" if len(columns) > 1 else ""), fontsize=9)
