"""Writes an artifact so that a person sees the old one, or the new one, and never half of one.

Everything is built in a folder beside the target and renamed at the end. An existing target is
replaced only when it is an artifact, or an empty folder.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from optc.backends.aot import manifest as manifests
from optc.backends.aot.build import Emit, build
from optc.backends.aot.link import Toolchain, find_toolchain
from optc.backends.program import ALIGNMENT, Program, check_program
from optc.ir.diagnostics import InternalError, error

ZIP_SUFFIX = ".optc"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold: equal input, equal bytes


@dataclass(frozen=True, slots=True)
class Written:
    """An artifact on disk: where, its manifest, and the bytes of each file."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by file name."""
        return {name: entry["bytes"] for name, entry in self.manifest["files"].items()}


def write_artifact(
    program: Program,
    out: Path,
    *,
    emit: Sequence[Emit] = (Emit.SHARED,),
    extra: Mapping[str, bytes] | None = None,
    cache: Path | None = None,
    toolchain: Toolchain | None = None,
) -> Written:
    """Builds `program` into the folder `out`, or into one zip when `out` ends in `.optc`.

    `extra` are further files by relative name (report, graphs, lock). `cache` keeps compiled
    runtimes and zig's own cache between calls. Raises E0501 without a C toolchain, E0503 when `out`
    is something else than an artifact, E0504 when it cannot be written, E0505 for an unknown triple.
    """
    if problems := check_program(program):
        raise InternalError("the program is not well formed:\n" + "\n".join(problems))
    out = Path(os.path.abspath(out))
    _check_target(out)
    toolchain = toolchain or find_toolchain(program.triple, cache)
    with _writable(out), _aside(out) as folder:
        digest = build(program, folder, tuple(dict.fromkeys(emit)), toolchain, cache)
        for name, data in (extra or {}).items():
            path = folder / _relative(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        manifest = manifests.describe(program, digest, folder)
        (folder / manifests.NAME).write_text(manifests.to_text(manifest))
        if out.suffix == ZIP_SUFFIX:
            packed = folder.with_suffix(".zip")
            try:
                pack(folder, packed)
                packed.replace(out)
            finally:
                packed.unlink(missing_ok=True)
        else:
            _replace(folder, out)
    return Written(out, manifest)


def pack(folder: Path, target: Path) -> None:
    """Zips `folder`: stored, in order, without times, every file's bytes aligned so that it can be mapped."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        for name in sorted(names, key=lambda name: name != manifests.NAME):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3
            start = archive.fp.tell() + 30 + len(name.encode()) if archive.fp else 0
            info.extra = _padding(-start % ALIGNMENT)
            with (folder / name).open("rb") as source, archive.open(info, "w", force_zip64=False) as entry:
                shutil.copyfileobj(source, entry, 1 << 20)


def _padding(nbytes: int) -> bytes:
    """An extra field of `nbytes` bytes, or of 64 more when that is too short for a field's head."""
    if nbytes == 0:
        return b""
    nbytes += ALIGNMENT if nbytes < 4 else 0
    return b"\x4f\x50" + (nbytes - 4).to_bytes(2, "little") + bytes(nbytes - 4)


def is_artifact(path: Path) -> bool:
    """True for a folder or a zip with a manifest of ours."""
    try:
        if path.is_dir():
            text = (path / manifests.NAME).read_bytes()
        else:
            with zipfile.ZipFile(path) as archive:
                text = archive.read(manifests.NAME)
        content = json.loads(text)
        return isinstance(content, dict) and content.get("format") == manifests.FORMAT
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def _check_target(out: Path) -> None:
    exists = out.exists() or out.is_symlink()
    if not exists or is_artifact(out) or (out.is_dir() and not any(out.iterdir())):
        return
    raise error(
        "E0503",
        f"{out} exists and is not an artifact, so it is not replaced",
        help=f"choose another -o, or remove it: rm -r {out}",
    )


_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (*_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.ENAMETOOLONG)


@contextmanager
def _writable(out: Path, reasons: Sequence[int] = _REFUSED) -> Iterator[None]:
    """Turns what the system says against writing into one sentence; other errors are bugs of ours."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in reasons:
            raise
        full = problem.errno in _FULL
        raise error(
            "E0504",
            f"cannot write {out}: {'the disk is full' if full else problem.strerror}",
            help="free some space" if full else "choose another folder with -o",
        ) from problem


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, removed at the end whatever happens."""
    folder = out.parent / f".{out.name}.{secrets.token_hex(4)}.new"
    # Whatever is in the way of the first folder is in the user's path.
    with _writable(out, (*_REFUSED, errno.ENOENT, errno.EEXIST)):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, out: Path) -> None:
    old = folder.with_suffix(".old")
    present = out.exists()
    if present:
        out.rename(old)
    try:
        folder.rename(out)
    except BaseException:
        if present:
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _relative(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise InternalError(f"{name!r} is no name inside an artifact")
    return path
