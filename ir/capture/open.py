"""Files that hold a model: which kind they are, and what to do about the ones that are refused."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export import ExportedProgram

from optc.ir.capture.archive import Format, format_of, load_archive
from optc.ir.diagnostics import Diagnostic, OptcError, Severity, error

_TWO_LINES = (
    "program = torch.export.export(model.eval(), example_inputs)\n"
    'torch.export.save(program, "model.pt2")'
)
_SAVE_AGAIN = 'program = torch.export.load("old.pt2")\ntorch.export.save(program, "model.pt2")'


def open_model(
    path: Path, *, unsafe_load: bool, diagnostics: list[Diagnostic]
) -> torch.nn.Module | ExportedProgram:
    """What the file holds; raises E0112 and E0201 to E0207."""
    try:
        kind = format_of(path)
    except OSError as problem:
        raise error("E0112", f"{path} cannot be read: {problem.strerror}") from None
    match kind:
        case Format.EXPORTED:
            return load_archive(path)
        case Format.PICKLED if unsafe_load:
            return _unpickled(path, diagnostics)
        case Format.PICKLED | Format.TORCHSCRIPT:
            raise _refused(path, kind)
        case Format.TRUNCATED:
            raise error(
                "E0202",
                f"{path} is the beginning of an archive; the rest is missing",
                help="copy it again from where it was saved, or save it again",
            )
        case Format.OLD_EXPORTED:
            raise error(
                "E0206",
                f"{path} holds {kind.value}, a format that needs unpickling",
                excerpt=_SAVE_AGAIN,
                help="save it again with these two lines, where you trust the file",
            )
        case Format.UNKNOWN:
            raise error(
                "E0201",
                f"{path} is no model: it is neither an archive nor a pickle",
                excerpt=_TWO_LINES,
                help="these two lines write one",
            )


def _refused(path: Path, kind: Format) -> OptcError:
    way_out = (
        "; or, if you trust the file, --unsafe-load --example input.npz"
        if kind is Format.PICKLED
        else ""
    )
    return error(
        "E0203",
        f"{path} holds {kind.value}, not an exported program",
        excerpt=_TWO_LINES,
        help=f"make a .pt2 with these two lines{way_out}",
    )


def _unpickled(path: Path, diagnostics: list[Diagnostic]) -> torch.nn.Module:
    diagnostics.append(
        Diagnostic(
            "W0242",
            f"{path} was unpickled: whoever wrote it could run any code on this machine as you",
            Severity.WARNING,
            help="save it as .pt2 and leave --unsafe-load out",
        )
    )
    try:
        found = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as problem:
        raise error(
            "E0207",
            f"{path} cannot be unpickled: {type(problem).__name__}: {problem}",
            help="unpickling needs the model's source code importable; run where it is",
        ) from problem
    if isinstance(found, torch.nn.Module):
        return found
    what = "weights only" if isinstance(found, dict) else f"a {type(found).__name__}"
    raise error(
        "E0207",
        f"{path} holds {what}, not a model",
        excerpt=_TWO_LINES,
        help="load the weights into the model and export it with these two lines",
    )
