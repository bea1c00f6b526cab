"""Output files: written aside, renamed when complete, so that nothing is ever half-written.

The temporary name lies in the same folder as the final one (a rename must not cross file systems)
and starts with a dot. Whatever interrupts the writing, Ctrl-C included, removes it.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optc.ir.diagnostics import OptcError, error


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; it becomes `path` when the block ends well. Raises E0150, E0151."""
    with writing(path):
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


def check_writable(path: Path) -> None:
    """Raise E0150 now, before long work, when a file or folder could not be made at `path`."""
    place = path.absolute().parent
    while not place.exists():
        place = place.parent
    with writing(path):
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
        with tempfile.TemporaryFile(dir=place):
            pass


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors while `path` is written into E0150 and E0151."""
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
    return error(
        "E0150", f"cannot write {path}: {reason}", help="give -o a folder you may write to"
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
