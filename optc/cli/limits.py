"""`optc targets NAME --measure`: what this machine can do at most, measured and kept."""

from __future__ import annotations

from optc.cli.options import cache_folder
from optc.cli.terminal import console, plain_table, styled
from optc.ir.diagnostics import error
from optc.ir.targets.detect import host, host_with
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Target
from optc.limits import FILE, kept_limits, limits_of
from optc.report.numbers import bytes_text, seconds_text
from optc.roofline import Limits


def measure_command(name: str, threads: int) -> None:
    """Measure this machine with the instructions of the target called `name`, and show it.

    Raises E0140 for an unknown target, E0143 for one whose code this machine cannot run.
    """
    machine = runnable_here(find_target(name))
    cache = cache_folder()
    limits = limits_of(machine, threads or machine.cores, cache, again=True)
    console().print(styled((f"{machine.description}", "bold"), f": {_threads(limits)}"))
    show_limits(limits)
    console().print(f"kept in {cache / FILE}")


def runnable_here(target: Target) -> Target:
    """This machine, with the target's instructions only; raises E0143 where it lacks some."""
    machine = host()
    missing = sorted(set(target.features) - set(machine.features))
    if target.arch is not machine.arch or missing:
        lacks = f"has no {', '.join(missing[:3])}" if missing else f"is {machine.arch.value}"
        raise error(
            "E0143",
            f"the limits of {target.name} cannot be measured here: this machine {lacks}",
            help="optc targets host --measure",
        )
    return host_with(target.features)


def show_kept(target: Target) -> None:
    """What was measured of this machine before, for all its cores, or how to measure it."""
    limits = kept_limits(target, target.cores, cache_folder())
    if limits is None:
        console().print("limits: not measured yet (optc targets host --measure)")
        return
    console().print(f"\nlimits, measured: {_threads(limits)}")
    show_limits(limits)


def show_limits(limits: Limits) -> None:
    """Two tables: operations per second by dtype, bytes per second by level."""
    out = console()
    table = plain_table("dtype", "GOP/s", "times f32", numbers=("GOP/s", "times f32"))
    for name, speed in {"f32": limits.flops, **limits.peaks}.items():
        table.add_row(name, f"{speed * 1e-9:.0f}", f"{speed / limits.flops:.1f}")
    out.print(table)
    numbers = ("holds", "read GB/s", "write", "copy")
    table = plain_table("memory", *numbers, numbers=numbers)
    for level in limits.levels:
        speeds = (f"{speed * 1e-9:.1f}" for speed in (level.bandwidth, level.write, level.copy))
        table.add_row(level.name, bytes_text(level.size), *speeds)
    out.print(table)
    if limits.threads > 1:
        out.print(f"fork-join: {seconds_text(limits.fork_join)} beyond the work")


def _threads(limits: Limits) -> str:
    return f"{limits.threads} thread{'s' if limits.threads > 1 else ''}"
