"""What tuning gains against trials and time: `python -m benchmarks tuning`.

    python -m benchmarks tuning                              # MiniLM, three minutes
    python -m benchmarks tuning --time 60s                   # a piece: the next one goes on from it
    python -m benchmarks tuning --fresh                      # forgets what earlier pieces measured
    python -m benchmarks tuning --kill 25s                   # kills a session, resumes another
    python -m benchmarks tuning --compare                    # the whole model with the records

A piece resumes from the records of those before it, as `optc tune` does; the curve is that of all
pieces, one behind the other. It is a prediction from kernels; `--compare` compiles the model with
and without the records and times both artifacts in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
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


@dataclass(frozen=True)
class Resumed:
    """A session killed after `seconds`, and one that went on from its records to the end."""

    seconds: float
    kept: int  # measurements on disk when it was killed
    fresh: int  # those that the second session added
    twice: int  # of all, those measured again for nothing
    stop: str

    @property
    def text(self) -> str:
        """A paragraph."""
        return (
            f"A session killed (SIGKILL) after {self.seconds:.0f} s left {self.kept} measured "
            f"settings on disk. The same command went on from them and ended because {self.stop}: "
            f"{self.fresh} more settings, {self.twice} measured twice (second looks at winners "
            "apart)."
        )


def killed(module: Module, seconds: float, folder: Path, model: str) -> Resumed:
    """Kill a session of another process without a word, then go on from what it left."""
    shutil.rmtree(folder, ignore_errors=True)
    records = folder / model / "records.jsonl"
    command = [sys.executable, "-m", "benchmarks", "tuning", "--model", model]
    with subprocess.Popen([*command, "--folder", str(folder)], start_new_session=True) as process:
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        os.killpg(process.pid, signal.SIGKILL)
    kept = known(records)
    stop = tune(module, 180.0, records, model).stop
    every = known(records)
    return Resumed(seconds, len(kept), len(every) - len(kept), len(every) - len(set(every)), stop)


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


def markdown(pieces: Sequence[Piece], whole: Sequence[float]) -> str:
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
            f"| {number} | {p.trials} | {p.elapsed:.0f} | {p.points[0][2] * 1e3:.3f} | "
            f"{p.points[-1][2] * 1e3:.3f} | {p.stop} |"
            for number, p in enumerate(pieces, 1)
        ),
        "",
        f"From {first * 1e3:.3f} to {last * 1e3:.3f} ms, {first / last:.3f} times as fast; 95 % of "
        f"that was there after {trials} trials and {elapsed:.0f} s.",
    ]
    if whole:
        plain, tuned = whole
        lines += [
            "",
            f"The whole model, in turns in one run: {plain * 1e3:.3f} ms without tuning, "
            f"{tuned * 1e3:.3f} ms with the records: {plain / tuned:.3f} times as fast.",
        ]
    return "\n".join(lines) + "\n"


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
        (folder / "whole.json").unlink(missing_ok=True)
    found = json.loads(kept.read_text()) if kept.exists() else []
    pieces = [Piece(**{**item, "points": tuple(map(tuple, item["points"]))}) for item in found]
    model, inputs = MODELS[options.model].make()
    module = optc.capture(model, inputs)
    once = folder / "whole.json"
    whole: list[float] = json.loads(once.read_text()) if once.exists() else []
    if options.compare:
        whole = compare(module, [tensor.numpy() for tensor in inputs], folder, records)
        (folder / "whole.json").write_text(json.dumps(whole) + "\n")
    elif options.kill:
        aside = options.folder / "killed"
        resumed = killed(module, duration(options.kill) or 30.0, aside, options.model)
        (folder / "resumed.json").write_text(json.dumps(asdict(resumed)) + "\n")
    else:
        pieces.append(tune(module, duration(options.time) or 180.0, records, options.model))
    kept.write_text(json.dumps([asdict(piece) for piece in pieces], indent=1) + "\n")
    if not curve(pieces):
        return 0
    text = markdown(pieces, whole)
    if (folder / "resumed.json").exists():
        text += "\n" + Resumed(**json.loads((folder / "resumed.json").read_text())).text + "\n"
    (options.results / "tuning.md").write_text(text)
    print(text)
    from benchmarks.tuning_picture import draw

    draw(
        curve(pieces), stopped_paying(curve(pieces)), options.model, options.results / "tuning.png"
    )
    return 0
