"""Only HiGHS' own line is kept back, wherever it is buffered; all else arrives, in order."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from optc.passes.precision.stray_lines import STRAY, no_stray_lines

LIBC = ctypes.CDLL(None)


def test_what_others_print_arrives_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    print("python before")
    LIBC.printf(b"c before\n")
    with no_stray_lines():
        print("python within")
        LIBC.printf(STRAY)
        LIBC.printf(b"c within\n")
        LIBC.printf(STRAY)
    os.write(1, b"after\n")
    lines = capfd.readouterr().out.split("\n")
    assert lines == ["python before", "c before", "python within", "c within", "after", ""]


def test_output_is_given_back_where_the_solver_raises(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), no_stray_lines():
        LIBC.printf(b"why\n") / 0
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "why\nafter\n"


def test_nobody_need_listen() -> None:
    program = (
        "import os, sys\n"
        "from optc.passes.precision.stray_lines import no_stray_lines\n"
        "os.close(1)\n"
        "sys.stdout = None\n"
        "with no_stray_lines():\n"
        "    sys.stderr.write('within')\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert found.stderr == b"within"
