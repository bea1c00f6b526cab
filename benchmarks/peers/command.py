"""`python -m benchmarks peers`: prepare, measure, merge, table, picture.

    python -m benchmarks peers --prepare                    # converts and compiles; minutes
    python -m benchmarks peers                              # measures; on a quiet machine
    python -m benchmarks peers --models resnet50 --rounds 6

What is prepared lies in a folder (`--folder`, by default under the cache); without `--prepare` only
what is missing there is prepared first.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contender import CONTENDERS, Job
from benchmarks.peers.results import OURS, REFERENCE, Entry, Row, kernel_times, merge
from benchmarks.peers.rounds import Runner, prepare, time_all
from benchmarks.peers.table import markdown
from optc.cli.options import cache_folder
from optc.ir.targets.detect import host, host_with
from optc.ir.targets.find import find_target
from optc.limits import limits_of

DEFAULT = (
    "resnet50", "mobilenet-v2", "convnext-t", "deit-t", "minilm-l6", "bert-base", "gpt2",
    "efficientnet-lite0",
)  # fmt: skip
RESULTS = Path(__file__).parents[1] / "results"
WRONG = 1e-3  # of the output's range: a contender that differs more computes something else
DROP = 3  # calls after a wake-up


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say; 1 when a contender of ours failed."""
    options = _parser().parse_args(arguments)
    failed = False
    for model in options.models.split(","):
        folder = options.folder / model
        job = Job(model, options.target, options.threads, folder / options.target)
        job.folder.mkdir(parents=True, exist_ok=True)
        names = [n for n in options.contenders.split(",") if options.target in CONTENDERS[n].levels]
        problems = _prepared(job, names, again=options.prepare)
        if options.prepare:
            continue
        row = measure(job, names, problems, options.rounds, options.seconds)
        failed |= row.entry(OURS) is None
        rows = merge(options.results / "peers.json", [row])
        _publish(list(rows.values()), options.results)
        _say(row)
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks peers", description=__doc__)
    parser.add_argument("--models", default=",".join(DEFAULT), help="names, with commas between")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="names")
    parser.add_argument("--target", default="host", help="host, x86-64-v3 or x86-64-v2")
    parser.add_argument("--threads", type=int, default=host().cores)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contender")
    parser.add_argument("--seconds", type=float, default=0.25, help="of a turn")
    parser.add_argument("--prepare", action="store_true", help="convert and compile, nothing else")
    parser.add_argument("--folder", type=Path, default=cache_folder() / "peers")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


def _prepared(job: Job, names: Sequence[str], *, again: bool) -> dict[str, str]:
    """What went wrong for whom; what was prepared before, rightly or wrongly, is not done again."""
    problems = {}
    for name in names:
        note = job.folder / f"{name}.prepared"
        if again or not note.exists():
            if name == OURS:
                shutil.rmtree(job.folder / "optc", ignore_errors=True)
            print(f"{job.model}: preparing {name}", file=sys.stderr, flush=True)
            note.write_text(prepare(name, job, job.folder / f"{name}.prepare.log"))
        problems[name] = note.read_text()
    return problems


def measure(
    job: Job, names: Sequence[str], problems: dict[str, str], rounds: int, seconds: float
) -> Row:
    """Open all, time all in turns, check all against the reference, look into our own."""
    limits = limits_of(host_with(find_target(job.target).features), job.threads, cache_folder())
    row = Row(job.model, job.target, job.threads, host().description, str(date.today()), ())
    with ExitStack() as stack:
        runners = [
            stack.enter_context(Runner.start(name, job, job.folder / f"{name}.log"))
            for name in names
            if not problems[name]
        ]
        for runner in runners:
            runner.wait()
        time_all([runner for runner in runners if not runner.problem], rounds, seconds, DROP)
        found = next((r for r in runners if r.name == OURS and not r.problem), None)
        answer = found.ask({"do": "kernels", "runs": 30}) if found else {}
    entries = [Entry(name, problem=problems[name]) for name in names if problems[name]]
    entries += [_entry(runner, job.folder) for runner in runners]
    ordered = tuple(sorted(entries, key=lambda entry: list(CONTENDERS).index(entry.contender)))
    row = replace(row, entries=ordered)
    if "kernels" not in answer:
        return row
    kernels = kernel_times(answer["kernels"], limits, answer["weights"])
    plain: tuple[dict[str, Any], ...] = tuple(
        {
            "label": k.label, "kernel": k.kernel, "seconds": k.seconds, "limit": k.limit,
            "bound": k.wall, "speed": k.speed,
        }
        for k in kernels
    )  # fmt: skip
    return replace(row, limit=sum(k.limit for k in kernels), kernels=plain)


def _entry(runner: Runner, folder: Path) -> Entry:
    if runner.problem or not runner.rounds:
        return Entry(runner.name, runner.version, problem=runner.problem or "gave no time")
    error = _error(folder / f"{runner.name}.npz", folder / f"{REFERENCE}.npz")
    entry = Entry.of(runner.name, runner.version, runner.rounds, error)
    if error > WRONG:
        return replace(entry, problem=f"its outputs differ by {error:.1e} of their range")
    return entry


def _error(found: Path, expected: Path) -> float:
    """Largest difference as a share of the reference's range; inf where shapes differ."""
    if not expected.exists():
        return float("nan")
    worst = 0.0
    with np.load(found) as ours, np.load(expected) as theirs:
        if len(ours.files) != len(theirs.files):
            return float("inf")
        for name in theirs.files:
            a, b = ours[name].astype(np.float64), theirs[name].astype(np.float64)
            if a.shape != b.shape:
                return float("inf")
            span = max(float(np.ptp(b)), float(np.abs(b).max()), 1e-30)
            worst = max(worst, float(np.abs(a - b).max()) / span)
    return worst


def _publish(rows: Sequence[Row], results: Path) -> None:
    (results / "peers.md").write_text(markdown(rows, DEFAULT))
    try:
        from benchmarks.peers.picture import draw
    except ImportError as problem:
        print(f"no picture: {problem}", file=sys.stderr)
        return
    draw([row for row in rows if row.target == "host"], DEFAULT, results / "peers.png")


def _say(row: Row) -> None:
    print(
        f"{row.model}, {row.target}, {row.threads} threads: ratio {row.ratio:.2f}, "
        f"undisturbed {row.undisturbed:.2f}"
    )
    for entry in row.entries:
        times = "".join(f"{t * 1e3:9.2f}" for t in (entry.p10, entry.median, entry.p90))
        text = f"{times} ms   error {entry.error:.1e}"
        print(f"  {entry.contender:14} {entry.problem or text}", flush=True)
