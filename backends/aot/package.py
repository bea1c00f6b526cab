"""Writes an artifact, a folder or one `.optc` zip, so that nobody ever sees half of one."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from optc.backends.aot import manifest as manifests
from optc.backends.aot.build import Emit, build
from optc.backends.aot.check_program import check_program
from optc.backends.aot.folder import check_replaceable, replace_folder
from optc.backends.aot.link import Toolchain, find_toolchain
from optc.backends.program import ALIGNMENT, Program
from optc.ir.diagnostics import InternalError
from optc.ir.output import check_writable, replace_file

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
    runtimes and zig's own cache. Raises E0150 when `out` cannot be written, E0151 when the disk is
    full, E0501 without a C toolchain, E0502 for a triple that cannot be linked, E0503 when `out` is
    something else than an artifact, and E0504 where a program for a GPU finds no compiler.
    """
    if problems := check_program(program):
        raise InternalError("the program is not well formed:\n" + "\n".join(problems))
    # A link stays and leads to the new artifact: `current` of a deployment, say.
    out = out.resolve() if out.is_symlink() and out.exists() else out.absolute()
    check_replaceable(out)
    check_writable(out)
    toolchain = toolchain or find_toolchain(program.triple, cache)
    if out.suffix != ZIP_SUFFIX:
        with replace_folder(out) as folder:
            return Written(out, _fill(folder, program, emit, extra or {}, cache, toolchain))
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        replace_file(out) as packed,
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".") as folder,
    ):
        manifest = _fill(Path(folder), program, emit, extra or {}, cache, toolchain)
        pack(Path(folder), packed)
        return Written(out, manifest)


def _fill(
    folder: Path,
    program: Program,
    emit: Sequence[Emit],
    extra: Mapping[str, bytes],
    cache: Path | None,
    toolchain: Toolchain,
) -> dict[str, Any]:
    digest = build(program, folder, tuple(dict.fromkeys(emit)), toolchain, cache)
    for name, data in extra.items():
        path = folder / _relative(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    manifest = manifests.describe(program, digest, folder)
    (folder / manifests.NAME).write_text(manifests.to_text(manifest))
    return manifest


def pack(folder: Path, target: Path) -> None:
    """Zips `folder`: stored, in order, without times, each file aligned for mapping."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        names = sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        for name in sorted(names, key=lambda name: name != manifests.NAME):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3
            start = archive.fp.tell() + 30 + len(name.encode()) if archive.fp else 0
            info.extra = _padding(-start % ALIGNMENT)
            with (
                (folder / name).open("rb") as source,
                archive.open(info, "w", force_zip64=False) as entry,
            ):
                shutil.copyfileobj(source, entry, 1 << 20)


def _padding(nbytes: int) -> bytes:
    """An extra field of `nbytes` bytes, or of 64 more when that is too short for a field's head."""
    if nbytes == 0:
        return b""
    nbytes += ALIGNMENT if nbytes < 4 else 0
    return b"\x4f\x50" + (nbytes - 4).to_bytes(2, "little") + bytes(nbytes - 4)


def _relative(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise InternalError(f"{name!r} is no name inside an artifact")
    return path
