"""`optc passes`, `targets`, `ops`, `explain`: what there is, read from the tables themselves."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from pathlib import Path

import click

from optc.cli.options import threads_option
from optc.cli.terminal import console, plain_table, styled


@click.command("passes")
@click.argument("name", required=False)
def passes_command(name: str | None) -> None:
    """List the passes with their effect, or explain the pass called NAME and its options."""
    from optc.passes.catalogue import find_pass, names

    if name is not None:
        _explain_pass(name)
        return
    table = plain_table("pass", "effect", "what it does")
    for each in sorted(names()):
        cls = find_pass(each)
        table.add_row(each, cls.effect.value, _first_sentence(cls.__doc__))
    console().print(table)


def _explain_pass(name: str) -> None:
    from optc.ir.printer import literal
    from optc.passes.catalogue import find_pass

    cls = find_pass(name)
    out = console()
    out.print(styled((name, "bold"), f"  ({cls.effect.value}: {EFFECTS[cls.effect.value]})\n"))
    out.print(inspect.getdoc(cls) or "")
    options = dataclasses.fields(cls)
    if options:
        hints = typing.get_type_hints(cls)
        table = plain_table("option", "type", "default")
        for option in options:
            default = "" if option.default is dataclasses.MISSING else literal(option.default)
            table.add_row(option.name, _spell(hints[option.name]), default)
        out.print()
        out.print(table)
    page = Path("tests/golden") / f"{name}.md"
    out.print(f"\nexamples: {page}\nuse: -p '{name}'")


EFFECTS = {
    "exact": "the same bits",
    "rounding": "the same formula over the reals",
    "lossy": "another function, within a budget",
}


@click.command("targets")
@click.argument("name", required=False)
@click.option(
    "--measure",
    is_flag=True,
    help="Measure what this machine reaches with the target's instructions, and keep it.",
)
@threads_option()
def targets_command(name: str | None, measure: bool, threads: int) -> None:
    """List the targets, or show all that is known of the target called NAME.

    With --measure, this machine's limits: operations per second by dtype, bandwidth of memory and
    caches, the cost of a fork-join. `optc bench` quotes them; what is measured again keeps the
    better of each number. NAME is host, or another target to leave instructions out.
    """
    from optc.ir.targets.catalogue import TARGETS
    from optc.ir.targets.find import find_target

    if measure:
        from optc.cli.limits import measure_command

        measure_command(name or "host", threads)
        return
    if name is not None:
        _show_target(name)
        return
    table = plain_table("target", "arch", "vector", "cores", "what it is")
    for row in (find_target("host"), *TARGETS.values()):
        bits = f"{row.vector_bits} bit"
        table.add_row(row.name, row.arch.value, bits, str(row.cores), row.description)
    console().print(table)


def _show_target(name: str) -> None:
    from optc.ir.targets.find import find_target
    from optc.report.numbers import bytes_text

    row = find_target(name)
    table = plain_table("", "")
    table.show_header = False
    facts = {
        "name": row.name,
        "description": row.description,
        "architecture": row.arch.value,
        "triple": row.triple,
        "cpu": row.cpu,
        "features": " ".join(row.features) or "none needed",
        "vectors": f"{row.vector_registers} registers of {row.vector_bits} bit",
        "fused multiply-add": "yes" if row.fma else "no",
        "cores": str(row.cores),
        "memory": ", ".join(f"{space.name} {bytes_text(space.size)}" for space in row.memory),
        "dtypes": " ".join(sorted(dtype.value for dtype in row.dtypes)),
    }
    for key, value in facts.items():
        table.add_row(key, value)
    console().print(table)
    if name == "host":
        from optc.cli.limits import show_kept

        show_kept(row)


@click.command("ops")
@click.option(
    "--ir", "of_ir", is_flag=True, help="List optc's own ops with their attributes instead."
)
def ops_command(of_ir: bool) -> None:
    """Show which of PyTorch's core ops can be compiled, or why not; ends with the share."""
    if of_ir:
        _show_ir_ops()
        return
    from optc.optable import op_table

    known = op_table()
    table = plain_table("PyTorch op", "compiles", "samples", "of dtypes, or why not")
    for row in known.rows:
        mark = "yes" if row.supported else "no" if row.counts else "not counted"
        if row.counts and row.measured is not None:
            dtypes = " ".join(row.measured.dtypes)
            table.add_row(row.name, mark, str(row.measured.samples), dtypes)
        else:
            table.add_row(row.name, mark, "", row.reason)
    console().print(table)
    console().print(
        f"{known.samples} sample calls, compiled for the host and run, gave what PyTorch "
        f"{known.torch} gives.\n{len(known.supported)} of {len(known.counted)} core ops compile: "
        f"{known.percentage:.1f} %"
    )


def _show_ir_ops() -> None:
    from optc.ir.ops import OP_OF
    from optc.ir.printer import literal

    table = plain_table("op", "attributes", "what it computes")
    for name, cls in sorted(OP_OF.items()):
        fields = [
            f.name if f.default is dataclasses.MISSING else f"{f.name}={literal(f.default)}"
            for f in dataclasses.fields(cls)
        ]
        table.add_row(name, ", ".join(fields), _first_sentence(cls.__doc__))
    console().print(table)


@click.command("explain")
@click.argument("code")
def explain_command(code: str) -> None:
    """Explain the diagnostic CODE, such as E0140: what it means and what to do about it."""
    from optc.ir.codes import page

    found = page(code)
    console().print(styled((code.upper(), "bold"), f": {found.title}\n"))
    console().print(found.text)


def _spell(hint: object) -> str:
    return str(getattr(hint, "__name__", hint)).replace("typing.", "")


def _first_sentence(text: str | None) -> str:
    first = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=\w)\. (?=[A-Z])|: (?=inputs)", first)[0].rstrip(".")
