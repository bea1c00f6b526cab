"""Output files and folders: written aside, renamed when complete, so nothing is ever half-written.

The temporary name lies in the same folder as the final one (a rename must not cross file systems)
and starts with a dot. Whatever interrupts the writing, Ctrl-C included, removes it.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optc.ir.diagnostics import OptcError, error

MANIFEST = "manifest.json"  # what marks a folder as an artifact, which alone may be replaced


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; it becomes `path` when the block ends well. Raises E0150, E0151."""
    with _coded(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        aside = Path(name)
        try:
            yield aside
            aside.chmod(0o666 & ~_umask())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `path` when the block ends well.

    An artifact that lies at `path` is replaced as a whole; raises E0152 for any other content,
    E0150 where nothing can be written and E0151 when the disk is full.
    """
    with _coded(path):
        check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield aside
            aside.chmod(0o777 & ~_umask())
            _swap(aside, path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


def check_replaceable(path: Path) -> None:
    """Raise E0152 when `path` holds something that is not ours to replace."""
    if not path.exists():
        return
    if path.is_dir() and (not any(path.iterdir()) or (path / MANIFEST).exists()):
        return
    what = "is not empty and is not an artifact" if path.is_dir() else "is a file"
    raise error("E0152", f"{path} {what}; it is left alone", help="give -o a new folder")


def check_writable(path: Path) -> None:
    """Raise E0150 now, before long work, when a file or folder could not be made at `path`."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    if place.is_file():
        place = place.parent if place == path.absolute() else place
    with _coded(path):
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
        with tempfile.TemporaryFile(dir=place):
            pass


def _swap(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    path.rename(old / path.name)
    try:
        new.rename(path)
    except BaseException:
        (old / path.name).rename(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _coded(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise _diagnosed(path, problem) from problem


def _diagnosed(path: Path, problem: OSError) -> OptcError:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error(
            "E0151",
            f"no space left for {path}; nothing was kept of it",
            help="free some space or give -o a place on another disk",
        )
    reason = problem.strerror or str(problem)
    return error("E0150", f"cannot write {path}: {reason}", help="give -o a folder you may write to")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
