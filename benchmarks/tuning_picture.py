"""The tuning curve: the best predicted run time over the time spent; where it stopped paying."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Point = tuple[int, float, float]


def draw(points: Sequence[Point], paid: Point, model: str, path: Path) -> None:
    """Steps down, a line where 95 % of the gain was there."""
    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    seconds = [elapsed for _, elapsed, _ in points]
    best = [took * 1e3 for _, _, took in points]
    axes.step(seconds, best, where="post", color="#2f5d8a")
    axes.plot(seconds, best, ".", color="#2f5d8a", ms=4)
    axes.axvline(paid[1], color="#c0392b", lw=1, ls=":")
    axes.text(
        paid[1], axes.get_ylim()[1], f" stopped paying: {paid[0]} trials, {paid[1]:.0f} s",
        va="top", fontsize=8, color="#c0392b",
    )  # fmt: skip
    axes.set_xlabel("seconds of tuning")
    axes.set_ylabel("ms of a run, predicted from kernels")
    axes.set_title(f"{model}: tuning gain", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
