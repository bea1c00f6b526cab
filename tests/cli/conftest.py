"""The command line as a person meets it: arguments in, exit code and two texts out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from optc.cli import main

MLP = """module @mlp {
  input x : 4x16xf32
  output y : 4x8xf32
  output hidden : 4x32xf32
  flow {
    y, hidden = run @main(x)
  }
  graph @main(%x: 4x16xf32) {
    %w1 = constant {seed=1} : 32x16xf32
    %w2 = constant {seed=2} : 8x32xf32
    %up = linear(%x, %w1) : 4x32xf32 @ "model.py":12 in "up"
    %act = relu(%up) : 4x32xf32 @ "model.py":13
    %down = linear(%act, %w2) : 4x8xf32 @ "model.py":14 in "down"
    return %down, %act
  }
}
"""


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def diagnostics(self) -> list[str]:
        """The codes of the errors and warnings on stderr, in order."""
        heads = [line for line in self.err.splitlines() if line.startswith(("error[", "warning["))]
        return [line.partition("[")[2].partition("]")[0] for line in heads]


Optc = Callable[..., Result]


@pytest.fixture(scope="session")
def cache_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled runtimes and measured limits, kept from one test run to the next."""
    kept = getattr(request.config, "cache", None)
    return Path(kept.mkdir("optc-cli")) if kept else tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder and with a cache of the tests' own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def optc(capfd: pytest.CaptureFixture[str]) -> Optc:
    """Runs a command in this process."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Result(code, out, err)

    return run


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A small model in text form."""
    path = tmp_path / "mlp.optc"
    path.write_text(MLP)
    return path


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, cache_home: Path) -> Path:
    """The small model compiled for this machine; tests copy it before they break it."""
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "mlp.optc").write_text(MLP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_home))
        arguments = ["compile", str(folder / "mlp.optc"), "-o", str(folder / "out"), "--no-bench"]
        assert main(arguments) == 0
    return folder / "out"


@pytest.fixture
def artifact(compiled: Path, tmp_path: Path) -> Path:
    """A copy of the compiled model that a test may break."""
    return Path(shutil.copytree(compiled, tmp_path / "artifact"))
