"""What every test shares: `--update`, markers with reasons, and no bare layer imports.

`pytest --update` rewrites what golden pages expect; read the diff before you commit it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

BARE = {"ir", "passes", "backends", "autotune"}

# The same examples on every run and machine, and no deadline: nothing is timed in a test.
settings.register_profile(
    "optc",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("optc")


class RefuseBareLayers(MetaPathFinder):
    """Makes `import ir` an error: with the root on sys.path it would load a second copy."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Refuse the layers' bare names; leave everything else to the next finder."""
        if fullname in BARE and path is None:
            raise ImportError(f"import optc.{fullname}, not {fullname}")
        return None


sys.meta_path.insert(0, RefuseBareLayers())


def _tool(name: str) -> str | None:
    return None if shutil.which(name) else f"{name} is not installed"


def _package(name: str) -> str | None:
    return None if find_spec(name) else f"the package {name} is not installed"


def _cpu_flag(name: str) -> str | None:
    flags = Path("/proc/cpuinfo")
    known = flags.exists() and name in flags.read_text().split()
    return None if known else f"this CPU has no {name}"


# What `@pytest.mark.needs("kind:name")` may ask for, and why a machine does not have it.
LACKS: dict[str, Callable[[str], str | None]] = {
    "tool": _tool,
    "package": _package,
    "cpu": _cpu_flag,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update`."""
    parser.addoption("--update", action="store_true", help="rewrite what golden pages expect")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, and say what it lacks."""
    for marker in item.iter_markers("needs"):
        for need in marker.args:
            kind, _, name = need.partition(":")
            reason = LACKS[kind](name)
            if reason:
                pytest.skip(reason)
