"""Output files are whole or not there, and what stands against writing is one sentence."""

from __future__ import annotations

import os
import resource
import signal
import stat
from pathlib import Path

import pytest

from optc.ir.diagnostics import OptcError
from optc.ir.output import check_writable, replace_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replace_file(path) as aside:
        aside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_interruption_leaves_the_old_file(tmp_path: Path, reason: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with replace_file(path) as aside:
            aside.write_text("half")
            raise reason

    with pytest.raises(reason):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with replace_file(tmp_path / "ours") as aside:
        aside.write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")]
    assert modes[0] == modes[1]


def test_a_missing_folder_is_a_diagnostic(tmp_path: Path) -> None:
    with pytest.raises(OptcError, match="E0150"), replace_file(tmp_path / "no" / "a"):
        pass


def test_a_full_disk_is_a_diagnostic_and_nothing_stays(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: the same errno path, no mount needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OptcError, match="E0151"), replace_file(tmp_path / "a") as aside:
            aside.write_bytes(b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert names(tmp_path) == []


def test_writability_is_asked_before_long_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "not" / "yet" / "there")
    (tmp_path / "file").write_text("")
    with pytest.raises(OptcError, match="E0150"):
        check_writable(tmp_path / "file" / "out")
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_a_diagnostic(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OptcError, match="E0150"):
        check_writable(tmp_path / "out")
