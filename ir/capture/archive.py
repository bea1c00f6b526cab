"""Read an exported program from a file without ever unpickling.

`torch.export.load` (2.13) falls back to `torch.load(weights_only=False)` for sample inputs, for
pickled weights and for opaque objects, and evaluates shape expressions with `sympify`, so a file
could run code. Here the graph comes from the archive's JSON alone, after its shape expressions and
call targets were checked; weights are mapped from the file; whatever needs a pickle is refused.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch._export.serde import schema
from torch._export.serde.serialize import ExportedProgramDeserializer, _dict_to_dataclass
from torch.export import ExportedProgram

from optc.ir.capture.mapped import MappedWeights
from optc.ir.capture.targets import check_targets
from optc.ir.capture.treespec import plain_spec
from optc.ir.diagnostics import OptcError, error

_MODELS = "models/"
_EXPRESSION = re.compile(r"^[\w\s+\-*/%(),.<>=]*$")
_WORDS = re.compile(r"[A-Za-z_]\w*")
_QUOTED = re.compile(r"'(\w+)'")
_SYMBOL = re.compile(r"^[suzf]+\d+$")
_FUNCTIONS = frozenset(
    "FloorDiv ModularIndexing Where PythonMod Mod CleanDiv CeilToInt FloorToInt CeilDiv LShift "
    "RShift "
    "PowByNatural FloatPow FloatTrueDiv IntTrueDiv TruncToFloat TruncToInt RoundToInt RoundDecimal "
    "ToFloat Identity Max Min Eq Ne Lt Le Gt Ge And Or Not Piecewise True False oo floor ceiling "
    "IsNonOverlappingAndDenseIndicator Symbol Mul Add Pow Integer Rational Float Half positive "
    "nonnegative negative nonzero integer real precision".split()
)

# What zipfile, json and reading a graph of the wrong shape raise.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, NotImplementedError),
    *(KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError),
)


class Format(Enum):
    """What a file turns out to be."""

    EXPORTED = "an exported program"
    OLD_EXPORTED = "an exported program of torch 2.7 or older"
    TORCHSCRIPT = "TorchScript"
    PICKLED = "a pickled Python object"
    TRUNCATED = "a truncated archive"
    UNKNOWN = "not an archive"


@dataclass(frozen=True, slots=True)
class _Archive:
    path: Path
    zip: zipfile.ZipFile
    root: str

    def read(self, name: str) -> bytes:
        return self.zip.read(f"{self.root}/{name}")

    def has(self, name: str) -> bool:
        return f"{self.root}/{name}" in self.zip.namelist()


def format_of(path: Path) -> Format:
    """Look at a file's content, not at its name."""
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"\x80\x02" or head[:1] == b"\x80":
        return Format.PICKLED
    if head != b"PK\x03\x04":
        return Format.UNKNOWN
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            start = min((info.header_offset for info in archive.infolist()), default=0)
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return Format.TRUNCATED
    if start:
        # What ends here is an archive within the archive, such as the sample inputs.
        return Format.TRUNCATED
    tails = {name.partition("/")[2] for name in names}
    if "archive_format" in tails and any(tail.startswith(_MODELS) for tail in tails):
        return Format.EXPORTED
    if "serialized_exported_program.json" in names:
        return Format.OLD_EXPORTED
    if any(tail.startswith("code/") for tail in tails) or "constants.pkl" in tails:
        return Format.TORCHSCRIPT
    return Format.PICKLED if "data.pkl" in tails else Format.UNKNOWN


def load_archive(path: Path) -> ExportedProgram:
    """The exported program in an archive; raises E0202 to E0205, never runs code of the file."""
    try:
        with zipfile.ZipFile(path) as file:
            archive = _Archive(path, file, file.namelist()[0].partition("/")[0])
            return _program(archive)
    except _DAMAGE as problem:
        raise error(
            "E0202",
            f"{path} is an archive with a part missing or damaged: {problem}",
            help="copy it again from where it was saved, or save it again",
        ) from None


def _program(archive: _Archive) -> ExportedProgram:
    name = _model_name(archive)
    text = archive.read(f"{_MODELS}{name}.json")
    raw = json.loads(text)
    if b"quantized_decomposed" in text:
        pass  # its ops exist once it is imported
    _check_version(archive.path, raw)
    for expression in _expressions(raw):
        _check_expression(archive.path, expression)
    for entry in raw["graph_module"]["module_call_graph"]:
        if entry["signature"] is not None:
            names = raw["graph_module"].get("treespec_namedtuple_fields") or {}
            for spec in ("in_spec", "out_spec"):
                entry["signature"][spec] = plain_spec(entry["signature"][spec], names)
    weights = MappedWeights(archive.path, archive.zip, archive.root)
    try:
        program = ExportedProgramDeserializer().deserialize(
            _dict_to_dataclass(schema.ExportedProgram, raw),
            weights.load("weights", name),
            weights.load("constants", name),
            None,
        )
    except OptcError:
        raise
    except Exception as problem:
        raise _newer(archive.path, raw, f"{type(problem).__name__}: {problem}") from problem
    check_targets(archive.path, program)
    return program


def _model_name(archive: _Archive) -> str:
    names = sorted(
        name.removeprefix(f"{archive.root}/{_MODELS}").removesuffix(".json")
        for name in archive.zip.namelist()
        if name.startswith(f"{archive.root}/{_MODELS}") and name.endswith(".json")
    )
    if not names:
        raise KeyError("it holds no models/*.json")
    return "model" if "model" in names else names[0]


def _check_version(path: Path, raw: Mapping[str, Any]) -> None:
    found = (int(raw["schema_version"]["major"]), int(raw["schema_version"]["minor"]))
    known: tuple[int, int] = schema.SCHEMA_VERSION
    if found[0] != known[0]:
        raise _newer(
            path, raw, f"its schema is {found[0]}.{found[1]}, known is {known[0]}.{known[1]}"
        )


def _newer(path: Path, raw: Mapping[str, Any], reason: str) -> OptcError:
    saved = raw.get("torch_version", "an unknown version")
    return error(
        "E0204",
        f"{path} is of torch {saved} and cannot be read by torch {torch.__version__}: {reason}",
        help=f"save it again with torch {torch.__version__.partition('+')[0]}",
    )


def _expressions(item: object) -> Iterator[str]:
    """Every text of the graph that torch would evaluate as a shape expression."""
    if isinstance(item, dict):
        for key, value in item.items():
            if key == "expr_str":
                yield str(value)
            else:
                yield from _expressions(value)
    elif isinstance(item, list):
        for value in item:
            yield from _expressions(value)


def _check_expression(path: Path, text: str) -> None:
    plain = _QUOTED.sub(r"\1", text)
    words = _WORDS.findall(plain)
    known = all(word in _FUNCTIONS or _SYMBOL.match(word) for word in words)
    if not (_EXPRESSION.match(plain) and known):
        raise error(
            "E0205",
            f"{path} holds the shape expression {text!r}, which is no arithmetic of dimensions",
            help="the file was not written by torch.export.save; do not trust it",
        )


__all__ = ["Format", "format_of", "load_archive"]
