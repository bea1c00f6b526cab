"""Options that several commands share, spelled and explained once, and what they stand for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optc.cache import default_cache
from optc.ir.diagnostics import error
from optc.ir.module import Module

if TYPE_CHECKING:
    from optc.runtime import Artifact

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def target_option(default: str | None = "host") -> Decorator:
    """`--target`."""
    return click.option(
        "--target",
        "-t",
        default=default,
        show_default=True,
        metavar="NAME",
        help="The machine to compile for, see `optc targets`; `NAME:cores=N` sets its cores, "
        "`NAME:winograd=off` keeps to direct convolutions.",
    )


def output_option() -> Decorator:
    """`--output`, which commands that write an artifact need."""
    return click.option(
        "--output",
        "-o",
        "output",
        required=True,
        type=click.Path(path_type=Path),
        metavar="OUT",
        help="The folder to write, or a .optc file for one zip; an artifact that is there is "
        "replaced.",
    )


def pipeline_option() -> Decorator:
    """`-p`."""
    return click.option(
        "--pipeline",
        "-p",
        default="",
        metavar="PASSES",
        help="Passes to run, such as 'fold-batch-norm,fuse{max_nodes=8}'; see `optc passes`.",
    )


def payoff_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--judge-passes` and `--measure-passes`: whether each lossy pass paid."""
    for decorate in (
        click.option(
            "--measure-passes",
            is_flag=True,
            help="Time the model before and after each lossy pass, and the original beside the "
            "artifact, where this machine is the target; else latency is modelled.",
        ),
        click.option(
            "--judge-passes/--no-judge-passes",
            default=True,
            help="With --data, judge on calibration samples whether each lossy pass paid.",
        ),
    ):
        command = decorate(command)
    return command


def memory_option(help: str) -> Decorator:
    """`--memory`, as bytes."""

    def read(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
        from optc.memory import parse_size

        return None if text is None else parse_size(text)

    return click.option("--memory", metavar="64MB", callback=read, help=help)


def check_memory(artifact: Path, budget: int | None) -> None:
    """Raise E0531 where an artifact needs more than `budget` bytes; a model is no artifact."""
    if budget is None or not is_artifact(artifact):
        return
    from optc.bundle import open_bundle
    from optc.memory import check_fits

    check_fits(open_bundle(artifact, cache_folder() / "artifacts").manifest, budget)


def threads_option() -> Decorator:
    """`--threads` of commands that run an artifact."""
    return click.option(
        "--threads",
        type=click.IntRange(0),
        default=0,
        metavar="N",
        help="Threads to run with; 0 takes one for each physical core.",
    )


def threshold_option() -> Decorator:
    """`--threshold` of commands that run an artifact."""
    return click.option(
        "--threshold",
        metavar="T[,T...]",
        help="Thresholds of exits: one for all or one for each, a number, `never` or `always`; "
        "without it those it was compiled with.",
    )


def apply_threshold(artifact: Artifact, text: str | None) -> None:
    """Set what `--threshold` says, if anything; raises E0766."""
    from optc.exits import parse_thresholds, set_thresholds

    if text is not None:
        set_thresholds(artifact, parse_thresholds(text))


def capture_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--shape`, `--unsafe-load` and `--example`: how a model becomes a module."""
    for decorate in (
        click.option(
            "--example",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            metavar="FILE.npz",
            help="Example inputs in the order of the model's arguments; needed with --unsafe-load.",
        ),
        click.option(
            "--unsafe-load",
            is_flag=True,
            help="Take a pickled module. Unpickling runs code in the file: only if you trust it.",
        ),
        click.option(
            "--shape",
            default="",
            metavar="NAME=N,...",
            help="Fix the dynamic dims of the model, such as batch=1,seq=128.",
        ),
    ):
        command = decorate(command)
    return command


def parse_shapes(text: str) -> dict[str, int]:
    """`batch=1,seq=128` as a table; raises E0703."""
    shapes: dict[str, int] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, number = piece.partition("=")
        if not name.strip() or not number.strip().isdigit() or int(number) == 0:
            raise error(
                "E0703",
                f"--shape: {piece!r} is not a dim and a size",
                help="--shape batch=1,seq=128",
            )
        shapes[name.strip()] = int(number)
    return shapes


def cache_folder() -> Path:
    """Where results that can be made again are kept: `$XDG_CACHE_HOME/optc` or `~/.cache/optc`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home) / "optc" if home else default_cache()


def read_module(
    path: Path, shape: str = "", unsafe_load: bool = False, example: Path | None = None
) -> Module:
    """The module in a `.optc` text, or captured from a `.pt2`; raises what those raise."""
    from optc.ir.store import load

    if not path.exists():
        raise error("E0112", f"cannot read {path}: there is no such file")
    if is_graph(path):
        return load(path)
    return capture_model(path, shape, unsafe_load, example)


def capture_model(path: Path, shape: str, unsafe_load: bool, example: Path | None) -> Module:
    """Capture a model file, showing the warnings of the capture."""
    from optc.cli.failures import show
    from optc.cli.inputs import read_arrays
    from optc.ir.capture import capture
    from optc.ir.diagnostics import Diagnostic

    found: list[Diagnostic] = []
    arrays = read_arrays(example) if example else None
    try:
        return capture(
            path, arrays, shapes=parse_shapes(shape), unsafe_load=unsafe_load, diagnostics=found
        )
    finally:
        for diagnostic in found:
            show(diagnostic)


def is_graph(path: Path) -> bool:
    """Whether the file is a module's text: it starts with `module`, `graph` or a comment."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(4096)
    lines = [
        line.strip()
        for line in head.split(b"\n")
        if line.strip() and not line.lstrip().startswith(b"//")
    ]
    return bool(lines) and lines[0].startswith((b"module @", b"graph @"))


def is_artifact(path: Path) -> bool:
    """Whether the path is a folder or a zip with a manifest."""
    import zipfile

    if path.is_dir():
        return (path / "manifest.json").exists()
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "manifest.json" in archive.namelist()
