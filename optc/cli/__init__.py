"""The command line. Commands are imported when called: `optc --help` loads no torch and no tvm."""

from __future__ import annotations

import sys

from optc.cli.failures import INTERRUPTED, TERMINATED, leave, run_command
from optc.cli.group import LazyGroup

COMMANDS = {
    "compile": (
        "optc.cli.compile:compile_command",
        "Compile a model into an artifact that runs by itself.",
    ),
    "route": (
        "optc.cli.route:route_command",
        "Compile a small model and, for what it is unsure of, a large one.",
    ),
    "tune": (
        "optc.cli.tune:tune_command",
        "Measure settings of a model's kernels, and keep the fastest.",
    ),
    "run": ("optc.cli.run:run_command", "Run an artifact on inputs from a .npz file."),
    "bench": ("optc.cli.bench:bench_command", "Time an artifact, as a whole and kernel by kernel."),
    "eval": ("optc.cli.eval:eval_command", "Measure how good a model or an artifact is on data."),
    "inspect": (
        "optc.cli.inspect:inspect_command",
        "Show what a model, a graph or an artifact holds.",
    ),
    "diff": (
        "optc.cli.diff:diff_command",
        "Find the first node whose output leaves its tolerance.",
    ),
    "opt": ("optc.cli.opt:opt_command", "Run passes on a graph in text form."),
    "passes": ("optc.cli.catalogues:passes_command", "List the passes, or explain one."),
    "targets": ("optc.cli.catalogues:targets_command", "List the targets, or show one."),
    "ops": ("optc.cli.catalogues:ops_command", "Show which PyTorch ops can be compiled."),
    "explain": ("optc.cli.catalogues:explain_command", "Explain a diagnostic code."),
}

optc = LazyGroup(
    COMMANDS,
    name="optc",
    help="A compiler for deployment: a PyTorch model in, a small artifact that runs without "
    "Python out.\n\n"
    "\b\n"
    "  optc compile model.pt2 --target host -o out/\n"
    "  optc run out/ --input x.npz\n"
    "  optc bench out/",
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, 1 user's error, 70 our bug, 130 Ctrl-C).

    Without arguments they are the process's own, which ends here when it is interrupted.
    """
    code = run_command(optc, sys.argv[1:] if arguments is None else arguments)
    if arguments is None and code in (INTERRUPTED, TERMINATED):
        leave(code)
    return code
