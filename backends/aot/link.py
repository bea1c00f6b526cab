"""Compiles the driver and the runtime and links them with the kernels, for any CPU target.

zig, a wheel that pip installs, is compiler, linker and C library for all of them; where it is
missing, the system's compiler serves its own architecture. Equal input gives equal bytes: names
are relative, nothing depends on the time, and there is no build id and no debug information.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optc.backends.aot.header import RUNTIME
from optc.ir.diagnostics import InternalError, error

_COMPILE = (
    "-std=c11",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-sanitize=all",  # zig adds the undefined behaviour sanitizer by default
    "-ffunction-sections",
    "-D_FILE_OFFSET_BITS=64",
)
_SHARED = (
    "-shared",
    "-Wl,--gc-sections",
    "-s",  # LLVM's kernels carry line tables; zig has no way to drop those and keep the symbols
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
    "-Wl,--no-undefined",
)
_LIBRARIES = ("-lpthread", "-lm")
_SOURCES = tuple(sorted(path.name for path in RUNTIME.glob("*.c")))

# The oldest glibc that zig can promise: an artifact runs on every Linux since about 2014.
_GLIBC = "2.17"
_ARCHES = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
    "arm": "arm",
    "armv7": "arm",
    "armv7a": "arm",
    "armv7l": "arm",
}


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A C compiler and an archiver for one target, each a command to which arguments are added."""

    name: str
    compiler: tuple[str, ...]
    archiver: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def compile(self, sources: Sequence[str], folder: Path, *, optimize: bool = True) -> list[str]:
        """Compiles `sources`, names in `folder`; returns the names of their objects."""
        level = "-O2" if optimize else "-O0"
        objects = [source.removesuffix(".c") + ".o" for source in sources]
        for source, output in zip(sources, objects, strict=True):  # zig takes one at a time with -c
            self._run((*self.compiler, *_COMPILE, level, "-c", source, "-o", output), folder)
        return objects

    def share(
        self,
        objects: Sequence[str],
        exports: Sequence[str],
        output: str,
        folder: Path,
        libraries: Sequence[str] = (),
    ) -> None:
        """Links `objects` and `libraries` to a shared library that shows only `exports`."""
        script = folder / "exports.map"
        script.write_text("{ global: " + "; ".join(exports) + "; local: *; };\n")
        version = "-Wl,--version-script=exports.map"
        inputs = (*objects, *_LIBRARIES, *libraries)
        self._run((*self.compiler, *_SHARED, version, *inputs, "-o", output), folder)
        script.unlink()

    def archive(self, objects: Sequence[str], output: str, folder: Path) -> None:
        """Puts `objects` into a static library, without times and owners."""
        self._run((*self.archiver, "rcsD", output, *objects), folder)

    def runtime(self, cache: Path | None) -> dict[str, bytes]:
        """The runtime's objects by name, from `cache` when they were compiled before."""
        key = hashlib.sha256(repr((self.name, self.compiler, _COMPILE)).encode())
        files = {path.name: path.read_bytes() for path in sorted(RUNTIME.iterdir())}
        for name, text in files.items():
            key.update(f"{name} {len(text)} ".encode() + text)
        store = cache / "runtime" / key.hexdigest()[:32] if cache else None
        if store and store.is_dir():
            return {path.name: path.read_bytes() for path in sorted(store.glob("*.o"))}
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                (Path(folder) / name).write_bytes(text)
            names = self.compile(_SOURCES, Path(folder))
            objects = {name: (Path(folder) / name).read_bytes() for name in names}
        if store:
            _keep(store, objects)
        return objects

    def _run(self, command: Sequence[str], folder: Path) -> None:
        done = subprocess.run(
            command,
            check=False,
            cwd=folder,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode == 0:
            return
        text = (done.stderr or done.stdout).strip()
        if "NoSpaceLeft" in text or "No space left" in text:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise InternalError(
            f"{self.name} failed on the generated code:\n{' '.join(command)}\n{text[-4000:]}"
        )


def _keep(store: Path, objects: Mapping[str, bytes]) -> None:
    """Writes the entry aside and renames it; where that fails it is compiled again next time."""
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=store.parent))
        try:
            for name, data in objects.items():
                (aside / name).write_bytes(data)
            aside.rename(store)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError:
        return


def find_toolchain(triple: str, cache: Path | None = None) -> Toolchain:
    """The toolchain for `triple`: zig, else the system's compiler where it makes code for `triple`.

    `cache` is a folder for zig's own caches and compiled runtimes. Raises E0501 when there is none,
    E0502 for a triple that the runtime does not support.
    """
    target = zig_target(triple)
    if importlib.util.find_spec("ziglang") is not None:
        zig = (sys.executable, "-m", "ziglang")
        folders = (
            {
                "ZIG_GLOBAL_CACHE_DIR": str(cache / "zig"),
                "ZIG_LOCAL_CACHE_DIR": str(cache / "zig" / "local"),
            }
            if cache
            else {}
        )
        return Toolchain(
            f"zig for {target}", (*zig, "cc", "-target", target), (*zig, "ar"), folders
        )
    return _system_toolchain(triple)


def _system_toolchain(triple: str) -> Toolchain:
    arch, abi = _split(triple)
    gnu = f"{arch}-linux-{abi}"
    native = _ARCHES.get(platform.machine().lower()) == arch and not abi.startswith("musl")
    for compiler, archiver in (
        (f"{gnu}-gcc", f"{gnu}-ar"),
        *((("cc", "ar"), ("gcc", "ar")) if native else ()),
    ):
        if shutil.which(compiler) and shutil.which(archiver):
            return Toolchain(compiler, (compiler,), (archiver,))
    raise error(
        "E0501",
        f"no C compiler for {triple} is installed: neither zig nor {gnu}-gcc",
        help="pip install ziglang",
    )


def zig_target(triple: str) -> str:
    """zig's name for an LLVM triple, with the oldest C library that an artifact should run on."""
    arch, abi = _split(triple)
    return f"{arch}-linux-{abi}" + ("" if abi.startswith("musl") else f".{_GLIBC}")


def _split(triple: str) -> tuple[str, str]:
    arch, *rest = triple.split("-")
    abi = rest[-1] if rest else ""
    if arch not in _ARCHES or "linux" not in rest or not abi.startswith(("gnu", "musl")):
        raise error("E0502", f"artifacts for {triple!r} cannot be linked", help="optc targets")
    return _ARCHES[arch], abi
