"""The command line explains itself: every command, every option, every table."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from optc.cli import COMMANDS
from optc.cli import optc as group
from optc.ir.codes import pages
from optc.ir.ops import OP_OF
from optc.ir.targets.catalogue import TARGETS
from optc.ir.targets.detect import host
from optc.passes.catalogue import names
from optc.roofline import Level, Limits
from tests.cli.conftest import Optc


def command(name: str) -> click.Command:
    found = group.get_command(click.Context(group), name)
    assert found is not None
    return found


def test_help_lists_every_command(optc: Optc) -> None:
    result = optc("--help")
    assert result.code == 0
    for name, (_, text) in COMMANDS.items():
        assert name in result.out
        assert text in result.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    found = command(name)
    assert found.help
    for option in found.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.opts}"
            assert option.help.endswith((".", "?"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(optc: Optc, name: str) -> None:
    for spelling in ("--help", "-h"):
        result = optc(name, spelling)
        assert result.code == 0
        assert result.out.startswith(f"Usage: optc {name}")


def test_the_same_option_is_spelled_alike() -> None:
    spellings: dict[str, set[tuple[str, ...]]] = {}
    for name in COMMANDS:
        for option in command(name).params:
            if isinstance(option, click.Option):
                long = max(option.opts, key=len)
                spellings.setdefault(long, set()).add(tuple(sorted(option.opts)))
    assert {long: forms for long, forms in spellings.items() if len(forms) > 1} == {}


def test_version(optc: Optc) -> None:
    assert optc("--version").out.startswith("optc ")


def test_tables_hold_everything(optc: Optc) -> None:
    for arguments, wanted in (
        (("targets",), ["host", *TARGETS]),
        (("passes",), names()),
        (("ops", "--ir"), OP_OF),
    ):
        result = optc(*arguments)
        assert result.code == 0
        lines = {line.split()[0] for line in result.out.splitlines() if line.strip()}
        assert set(wanted) <= lines


@pytest.mark.parametrize("name", names())
def test_every_pass_is_explained(optc: Optc, name: str) -> None:
    result = optc("passes", name)
    assert result.code == 0
    assert f"tests/golden/{name}.md" in result.out


@pytest.mark.parametrize("code", pages())
def test_every_code_is_explained(optc: Optc, code: str) -> None:
    result = optc("explain", code.lower())
    assert result.code == 0
    assert result.out.startswith(code)


def test_a_target_is_shown(optc: Optc) -> None:
    result = optc("targets", "cortex-a76")
    assert "asimddp" in result.out
    assert "aarch64-linux-gnu" in result.out


def test_limits_are_measured_kept_and_shown(optc: Optc, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(1, 3e9, (Level("dram", 1 << 30, 7e9, 5e9, 6e9),), {"i8": 12e9})
    monkeypatch.setattr("optc.limits.measure", lambda *_: limits)
    monkeypatch.setattr("optc.cli.limits.cache_folder", Path.cwd)
    for arguments in (("host", "--measure", "--threads", host().cores), ("host",)):
        result = optc("targets", *arguments)
        assert result.code == 0
        for words in ("i8 12 4.0", "dram 1.07 GB 7.0 5.0 6.0"):
            assert words in " ".join(result.out.split())
