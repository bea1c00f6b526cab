"""From exceptions to exit codes: one coded diagnostic on stderr and no traceback.

0 done · 1 the user's error · 70 our bug, with a file that reproduces it · 130 Ctrl-C · 143 SIGTERM.
"""

from __future__ import annotations

import atexit
import os
import sys
import traceback
import warnings
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import click

from optc.cli.interruption import Terminated, watch
from optc.ir.diagnostics import Diagnostic, InternalError, OptcError, Severity

USER_ERROR, BUG, INTERRUPTED, TERMINATED = 1, 70, 130, 143
COLORS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.REMARK: "cyan"}


def run_command(command: click.Command, arguments: list[str]) -> int:
    """Run a click command to its exit code; every failure ends in one diagnostic on stderr."""
    watch()
    if not sys.warnoptions:  # torch warns about itself; `python -W default -m optc.cli` shows that
        warnings.simplefilter("ignore")
    try:
        result = command.main(args=arguments, prog_name="optc", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\ninterrupted; nothing was left half-written", err=True)
        return INTERRUPTED
    except Terminated:
        return TERMINATED
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return USER_ERROR
    except Exception as problem:
        findings = _findings(problem)
        for finding in findings:
            show(finding)
        return USER_ERROR if findings else _bug(problem, arguments)


def _findings(problem: Exception) -> tuple[Diagnostic, ...]:
    """What the user did, or met; nothing when it is our bug."""
    match problem:
        case OptcError():
            return problem.diagnostics
        case click.UsageError():
            return (_usage(problem),)
        case click.ClickException():
            return (Diagnostic("E0703", problem.format_message(), help="optc --help"),)
        case MemoryError():
            return (Diagnostic("E0705", "there is not enough memory", help="optc explain E0705"),)
    return ()


def show(diagnostic: Diagnostic) -> None:
    """Write one diagnostic to stderr; its head is coloured at a terminal.

    An error that has no better advice has its page.
    """
    if diagnostic.severity is Severity.ERROR and not diagnostic.help:
        diagnostic = replace(diagnostic, help=f"optc explain {diagnostic.code}")
    head, _, rest = str(diagnostic).partition(":")
    styled = click.style(head, fg=COLORS[diagnostic.severity], bold=True)
    click.echo(f"{styled}:{rest}", err=True)


def leave(code: int) -> NoReturn:
    """End an interrupted process at once, once what was registered for its end is done.

    Libraries' threads may be in the middle of anything: an orderly end of the interpreter takes
    their stacks apart, which C++ answers with an abort.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _usage(problem: click.UsageError) -> Diagnostic:
    command = problem.ctx.command_path if problem.ctx else "optc"
    if not isinstance(problem, click.NoSuchOption):
        return Diagnostic("E0703", problem.format_message(), help=f"{command} --help")
    known = [
        name
        for option in (problem.ctx.command.params if problem.ctx else ())
        for name in (*option.opts, *option.secondary_opts)
        if name.startswith("--")
    ]
    near = get_close_matches(problem.option_name, known, 2, 0.5)
    offer = f"; did you mean {' or '.join(near)}?" if near else ""
    message = f"{command} has no option {problem.option_name}{offer}"
    return Diagnostic("E0701", message, help=f"{command} --help")


def _bug(problem: Exception, arguments: list[str]) -> int:
    try:
        kept = f"; what reproduces it was kept in {_reproducer(problem, arguments)}"
    except (OSError, OptcError) as reason:
        kept = f"; what reproduces it could not be kept: {str(reason).splitlines()[0]}"
    message = f"{_first_line(problem)}{kept}"
    show(Diagnostic("E0790", message, help="please report this bug with that file"))
    return BUG


def _reproducer(problem: Exception, arguments: list[str]) -> Path:
    from optc.ir.output import replace_file

    text = getattr(problem, "reproducer", "")
    path = _beside_output(arguments, "optc" if text else "txt")
    with replace_file(path) as aside:
        trace = "".join(traceback.format_exception(problem))
        comment = "".join(f"// {line}\n" for line in trace.splitlines())
        aside.write_text(f"// optc {' '.join(arguments)}\n{comment}{text}", encoding="utf-8")
    return path


def _beside_output(arguments: list[str], suffix: str) -> Path:
    """`out-bug.optc` beside `out/`; here when the command has no -o, or there is not writable."""
    output = next(
        (value for option, value in pairwise(arguments) if option in ("-o", "--output")),
        "optc",
    )
    path = Path(output)
    beside = path.with_name(f"{path.name.split('.')[0]}-bug.{suffix}")
    return (
        beside
        if beside.parent.is_dir() and os.access(beside.parent, os.W_OK)
        else Path(beside.name)
    )


def _first_line(problem: Exception) -> str:
    text = str(problem).partition("\n")[0] or type(problem).__name__
    return text if isinstance(problem, InternalError) else f"{type(problem).__name__}: {text}"
