"""What tuning gains against trials and time: `python -m benchmarks tuning`.

    python -m benchmarks tuning                              # MiniLM, three minutes
    python -m benchmarks tuning --time 60s                   # a piece: the next one goes on from it
    python -m benchmarks tuning --fresh                      # forgets what earlier pieces measured
    python -m benchmarks tuning --time 60s --kill 30s        # a piece that is killed half-way
    python -m benchmarks tuning --compare                    # the whole model with the records

A piece resumes from the records of those before it, as `optc tune` does; the curve is that of all
pieces, one behind the other. It is a prediction from kernels; `--compare` compiles the model with
and without the records and times both artifacts in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median

import numpy as np

import optc
from benchmarks.models import MODELS
from optc.autotune.events import Budget, Outcome
from optc.cli import tuning
from optc.cli.options import cache_folder
from optc.cli.tuning import Wishes, duration
from optc.driver import Options, compile_module, lower_module
from optc.ir.module import Module
from optc.ir.targets.detect import host

RESULTS = Path(__file__).parent / "results"
PAID = 0.05  # of the whole gain: what came after was not worth waiting for


@dataclass(frozen=True)
class Piece:
    """A session: (trials, seconds since it began, predicted seconds of a run) at each new best."""

    model: str
    date: str
    machine: str
    elapsed: float
    trials: int
    points: tuple[tuple[int, float, float], ...]
    stop: str

    @staticmethod
    def of(model: str, outcome: Outcome) -> Piece:
        """What a session left."""
        points = tuple((p.trials, p.elapsed, p.seconds) for p in outcome.curve)
        trials, elapsed, _ = points[-1] if points else (0, 0.0, 0.0)
        today = str(date.today())
        stop = outcome.stop.value
        return Piece(model, today, host().description, elapsed, trials, points, stop)


def curve(pieces: Sequence[Piece]) -> list[tuple[int, float, float]]:
    """All pieces one behind the other; a later piece begins where the one before ended."""
    points: list[tuple[int, float, float]] = []
    trials, elapsed = 0, 0.0
    for piece in pieces:
        points += [(trials + n, elapsed + after, took) for n, after, took in piece.points]
        trials, elapsed = trials + piece.trials, elapsed + piece.elapsed
    return points


def stopped_paying(points: Sequence[tuple[int, float, float]]) -> tuple[int, float, float]:
    """The first point that has all but `PAID` of the gain; the last one was measured twice."""
    first, last = points[0][2], points[-1][2]
    enough = last + PAID * (first - last)
    return next(point for point in points if point[2] <= enough)


def tune(module: Module, seconds: float, records: Path, model: str) -> Piece:
    """One session."""
    wishes = Wishes(Budget(seconds=seconds), records)
    with closing(tuning.measurer_of(host(), wishes)) as measurer:
        fused = lower_module(module, host(), Options())
        return Piece.of(model, tuning.run_session(fused, host(), wishes, measurer))


def killed(arguments: Sequence[str], seconds: float, records: Path, model: str) -> Piece:
    """A session of a process that is killed without a word; what it left is in the records."""
    start = time.monotonic()
    command = (sys.executable, "-m", "benchmarks", "tuning", *arguments)
    with subprocess.Popen(command, start_new_session=True) as process:
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        os.killpg(process.pid, signal.SIGKILL)
    spent, trials = time.monotonic() - start, len(known(records))
    return Piece(model, str(date.today()), host().description, spent, trials, (), "killed")


def known(records: Path) -> list[tuple[str, str]]:
    """Task and settings of every measurement on disk; a second look at a winner is left out."""
    if not records.exists():
        return []
    items = [json.loads(line) for line in records.read_text().splitlines()]
    return [(item["key"], item["knobs"]) for item in items if item.get("runs", 1) == 1]


def compare(
    module: Module, inputs: Sequence[np.ndarray], folder: Path, records: Path
) -> list[float]:
    """Median seconds of a run without and with the records, in turns in one process."""
    cache, loaded = cache_folder(), []
    for name, known in (("plain", None), ("tuned", records)):
        made = compile_module(module, host(), folder / name, Options(cache=cache, records=known))
        loaded.append(optc.load(made.path))
    rounds: list[list[float]] = [[], []]
    for turn in range(14):
        for index in (0, 1) if turn % 2 else (1, 0):
            times = loaded[index].bench(*inputs, runs=12)[2:]
            rounds[index].append(float(np.median(times)) * 1e-9)
    return [median(times) for times in rounds]


HEAD = """# What tuning gains

Command: `python -m benchmarks tuning` (in pieces with `--time`, each resuming the one before).
Predicted seconds of a run, from the kernels' best times, against trials and time spent.
"""


def markdown(
    pieces: Sequence[Piece], whole: Sequence[float], measured: Sequence[tuple[str, str]]
) -> str:
    """Pieces, where it stopped paying, and the whole model with and without."""
    points = curve(pieces)
    trials, elapsed, _ = stopped_paying(points)
    first, last = points[0][2], points[-1][2]
    lines = [
        HEAD,
        f"{pieces[0].machine}, {host().cores} threads; {pieces[0].model}",
        "",
        "| piece | trials | s | ms before | ms after | ended because |",
        "|" + "---|" * 6,
        *(
            f"| {number} | {p.trials} | {p.elapsed:.0f} | {_ends(p)} | {p.stop} |"
            for number, p in enumerate(pieces, 1)
        ),
        "",
        f"From {first * 1e3:.3f} to {last * 1e3:.3f} ms, {first / last:.3f} times as fast; 95 % of "
        f"that was there after {trials} trials and {elapsed:.0f} s.",
        "",
        f"On disk: {len(measured)} settings measured, {len(measured) - len(set(measured))} of them "
        "twice (the winners' second looks apart).",
    ]
    if whole:
        plain, tuned = whole
        lines += [
            "",
            f"The whole model, in turns in one run: {plain * 1e3:.3f} ms without tuning, "
            f"{tuned * 1e3:.3f} ms with the records: {plain / tuned:.3f} times as fast.",
        ]
    return "\n".join(lines) + "\n"


def _ends(piece: Piece) -> str:
    """Milliseconds before and after, which a killed piece cannot tell."""
    return " | ".join(f"{p[2] * 1e3:.3f}" for p in (*piece.points[:1], *piece.points[-1:])) or " | "


def main(arguments: Sequence[str]) -> int:
    """Tune for a while, then compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tuning", description=__doc__)
    parser.add_argument("--model", default="minilm-l6")
    parser.add_argument("--time", default="3m")
    parser.add_argument("--fresh", action="store_true", help="forget earlier pieces")
    parser.add_argument("--kill", default="", help="kill the session after this time")
    parser.add_argument("--compare", action="store_true", help="only the whole model, with records")
    parser.add_argument("--folder", type=Path, default=cache_folder() / "tuning")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    folder = options.folder / options.model
    folder.mkdir(parents=True, exist_ok=True)
    kept, records = folder / "pieces.json", folder / "records.jsonl"
    if options.fresh:
        kept.unlink(missing_ok=True)
        records.unlink(missing_ok=True)
    found = json.loads(kept.read_text()) if kept.exists() else []
    pieces = [Piece(**{**item, "points": tuple(map(tuple, item["points"]))}) for item in found]
    model, inputs = MODELS[options.model].make()
    module = optc.capture(model, inputs)
    whole: list[float] = []
    if options.compare:
        whole = compare(module, [tensor.numpy() for tensor in inputs], folder, records)
    elif options.kill:
        again = [a for a in arguments if a not in ("--fresh", "--kill", options.kill)]
        pieces.append(killed(again, duration(options.kill) or 30.0, records, options.model))
    else:
        pieces.append(tune(module, duration(options.time) or 180.0, records, options.model))
    kept.write_text(json.dumps([asdict(piece) for piece in pieces], indent=1) + "\n")
    if not curve(pieces):
        return 0
    text = markdown(pieces, whole, known(records))
    (options.results / "tuning.md").write_text(text)
    print(text)
    from benchmarks.tuning_picture import draw

    draw(
        curve(pieces), stopped_paying(curve(pieces)), options.model, options.results / "tuning.png"
    )
    return 0
