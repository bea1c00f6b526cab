"""Finds and checks an artifact's files, in a folder or a `.optc` zip, before they are loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from optc.arrays import Tensor, check_tree
from optc.cache import default_cache
from optc.ir.diagnostics import error

_FORMAT, _VERSION, _MANIFEST, _LIBRARY = "optc-artifact", 1, "manifest.json", "model.so"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """An artifact's folder and its manifest, whose form is checked."""

    folder: Path
    manifest: Mapping[str, Any]

    def library(self) -> Path:
        """The path of model.so; raises E0514 when it is not the one that was written."""
        path = self.folder / _LIBRARY
        if _LIBRARY not in self.manifest["files"]:
            raise error(
                "E0510",
                f"{self.folder} has no {_LIBRARY}: it was compiled for linking, not for loading",
                help="optc compile ... --emit so",
            )
        if _sha256(path) != self.manifest["files"][_LIBRARY].get("sha256"):
            raise error("E0514", f"{path} is damaged or missing", help="copy or compile it again")
        return path.absolute()


def open_bundle(path: Path, cache: Path | None = None) -> Bundle:
    """The artifact at `path`; a `.optc` file is unpacked once into `cache`.

    Raises E0510 for what is no artifact, E0511 for one of a newer optc, E0514 for a damaged one.
    """
    if path.is_dir():
        try:
            text = (path / _MANIFEST).read_bytes()
        except OSError as problem:
            raise _no_artifact(path, f"it has no readable {_MANIFEST}") from problem
        return Bundle(path, _parse(path, text))
    if not path.exists():
        raise _no_artifact(path, "there is no such file or folder")
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(_MANIFEST)
            manifest = _parse(path, text)
            folder = _unpack(path, archive, manifest, hashlib.sha256(text).hexdigest()[:32], cache)
    except (OSError, KeyError, ValueError, RuntimeError, NotImplementedError, EOFError) as problem:
        raise _no_artifact(path, f"it is not a zip of an artifact ({problem})") from problem
    except zipfile.BadZipFile as problem:
        raise _no_artifact(path, "it is neither a folder nor a zip") from problem
    return Bundle(folder, manifest)


def _no_artifact(path: Path, reason: str) -> Exception:
    return error("E0510", f"{path} is no artifact: {reason}", help="optc compile model.pt2 -o out/")


def _parse(path: Path, text: bytes) -> Mapping[str, Any]:
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise _damaged(path, str(problem)) from problem
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise _no_artifact(path, "its manifest is another program's")
    version = manifest.get("version")
    if type(version) is int and version > _VERSION:
        raise error(
            "E0511",
            f"{path} has format {version}, this optc reads formats up to {_VERSION}",
            help="pip install --upgrade optc",
        )
    try:
        _check(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as problem:
        reason = f"{problem} is missing" if isinstance(problem, KeyError) else str(problem)
        raise _damaged(path, reason) from problem
    return manifest


def _damaged(path: Path, reason: str) -> Exception:
    message = f"the manifest of {path} is damaged: {reason}"
    return error("E0514", message, help="copy or compile it again")


def _check(manifest: Mapping[str, Any]) -> None:
    """Raises a Python error when something the loader reads is missing or not of its kind."""
    name, prefix, triple = manifest["name"], manifest["prefix"], manifest["target"]["triple"]
    segments = [segment["name"] for segment in manifest["segments"]]
    if not all(isinstance(text, str) for text in (name, prefix, triple, *segments)):
        raise TypeError("a name is no text")
    if manifest["version"] != _VERSION or not prefix.isidentifier():
        raise ValueError("version or prefix")
    for kind in ("inputs", "outputs", "states"):
        for entry in manifest[kind]:
            Tensor.of(entry)
    for file, entry in manifest["files"].items():
        _check_file(PurePosixPath(file), entry["bytes"], entry["sha256"])
    check_tree(manifest["output_tree"], len(manifest["outputs"]))


def _check_file(path: PurePosixPath, nbytes: object, digest: object) -> None:
    if path.is_absolute() or ".." in path.parts or not str(path).isprintable():
        raise ValueError(f"file name {str(path)!r}")
    if type(nbytes) is not int or not isinstance(digest, str):
        raise TypeError(f"file {str(path)!r}")


def _unpack(
    path: Path, archive: zipfile.ZipFile, manifest: Mapping[str, Any], key: str, cache: Path | None
) -> Path:
    """The folder with the archive's files: only files can be loaded as library and mapped.

    The manifest names each file's digest, so its own digest is a sufficient key.
    """
    store = cache or default_cache() / "artifacts"
    folder = store / key
    if _complete(folder, manifest):
        return folder
    try:
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{key}.", dir=store) as name:
            new = Path(name) / "new"
            _extract(path, archive, manifest, new)
            shutil.rmtree(folder, ignore_errors=True)  # an incomplete one: a file was removed
            _take_place(new, folder, manifest)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise error(
            "E0515",
            f"{path} cannot be unpacked to {store}: {reason}",
            help="unzip it and load the folder",
        ) from problem
    return folder


def _extract(
    path: Path, archive: zipfile.ZipFile, manifest: Mapping[str, Any], folder: Path
) -> None:
    damaged = error("E0514", f"{path} is damaged", help="copy or compile it again")
    for name in (_MANIFEST, *manifest["files"]):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with archive.open(name) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)
        except (zipfile.BadZipFile, KeyError, EOFError) as problem:
            raise damaged from problem
    if any(_sha256(folder / name) != e["sha256"] for name, e in manifest["files"].items()):
        raise damaged


def _take_place(new: Path, folder: Path, manifest: Mapping[str, Any]) -> None:
    try:
        new.rename(folder)
    except OSError:
        if not _complete(folder, manifest):  # else another process was faster
            raise


def _complete(folder: Path, manifest: Mapping[str, Any]) -> bool:
    files = manifest["files"].items()
    return folder.is_dir() and all(_size(folder / name) == entry["bytes"] for name, entry in files)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
