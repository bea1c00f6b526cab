"""HiGHS without a line that it prints whatever it is asked.

The HiGHS that SciPy 1.17 carries repairs a solution that breaks a bound by a rounding, and then
prints a developer's line to standard output, with its log off (HiGHS.jl, issue 312; later versions
of HiGHS do not). Standard output is our caller's: it may be a pipe that somebody reads.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

STRAY = b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();\n"
_STDOUT = 1
_alone = Lock()  # a process has one standard output


@contextmanager
def no_stray_lines() -> Iterator[None]:
    """Keep back what the process prints meanwhile, and print it afterwards without that line."""
    with _alone:
        _flush()
        try:
            kept = os.dup(_STDOUT)
        except OSError:  # it is closed: nobody reads it
            yield
            return
        with tempfile.TemporaryFile() as caught:
            os.dup2(caught.fileno(), _STDOUT)
            try:
                yield
            finally:
                _flush()
                os.dup2(kept, _STDOUT)
                os.close(kept)
                caught.seek(0)
                _write(caught.read().replace(STRAY, b""))


def _flush() -> None:
    """Python and C have buffers of their own in front of standard output."""
    if sys.stdout is not None:
        sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(_STDOUT, data) :]
