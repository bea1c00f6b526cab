"""The commands of the project parse: shell, make, entry point, pins."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from tests.structure.tree import ROOT

JOBS = ("test", "check", "demo", "bench", "format", "update", "pins", "sizes", "clean", "help")
PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[^\s@+]+")
SCRIPTS = [ROOT / ".ci" / "run", *sorted((ROOT / "examples").rglob("*.sh"))]


def lines_of(path: Path) -> list[str]:
    """The lines of a requirements file without comments."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return [line for line in lines if line]


def project() -> dict[str, object]:
    """The `project` table of pyproject.toml."""
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def normal(name: str) -> str:
    """A package name as registries compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_stop_at_the_first_failure(script: Path) -> None:
    assert script.stat().st_mode & 0o100
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.needs("tool:make")
@pytest.mark.parametrize("job", JOBS)
def test_every_job_of_the_makefile_can_be_planned(job: str, tmp_path: Path) -> None:
    # In a copy with nothing installed, which is what a fresh clone looks like.
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "models.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "--dry-run", job], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


def test_the_entry_point_is_there() -> None:
    scripts = project()["scripts"]
    assert isinstance(scripts, dict)
    module, _, function = scripts["optc"].partition(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("name", ["constraints.txt", "models.txt"])
def test_every_line_of_the_pins_is_one_version_from_a_registry(name: str) -> None:
    wrong = [line for line in lines_of(ROOT / name) if not PIN.fullmatch(line)]
    assert wrong == []


def test_every_dependency_is_pinned() -> None:
    table = project()
    extras = table["optional-dependencies"]
    assert isinstance(extras, dict)
    assert isinstance(table["dependencies"], list)
    wanted = [*table["dependencies"], *(name for extra in extras.values() for name in extra)]
    pinned = {normal(line.split("==")[0]) for line in lines_of(ROOT / "constraints.txt")}
    names = {normal(re.split(r"[=<>!~\[; ]", requirement)[0]) for requirement in wanted}
    assert names - pinned == set()


def test_what_may_not_come_in_is_not_pinned() -> None:
    # These replace the CPU build of torch, or load CUDA operators beside it.
    pinned = {normal(line.split("==")[0]) for line in lines_of(ROOT / "constraints.txt")}
    assert pinned & {"torchvision", "torchaudio", "timm"} == set()
    cuda_build = ("nvidia-cudnn", "nvidia-cublas", "nvidia-nccl", "triton")
    assert not any(name.startswith(cuda_build) for name in pinned)
