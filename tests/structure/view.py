"""Type checking on the tree as it is installed.

mypy wants `optc.ir` below a folder `optc`; ours lies beside it. This makes `.mypy_view/optc`, links
what the package table says into it, and runs mypy there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.structure.tree import FOLDERS, LAYERS, ROOT

VIEW = ROOT / ".mypy_view"


def make_view(view: Path = VIEW) -> Path:
    """A folder with one package `optc` that is the union of ours, by symbolic links."""
    package = view / "optc"
    if package.exists():
        shutil.rmtree(package)
    package.mkdir(parents=True)
    for entry in sorted((ROOT / "optc").iterdir()):
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for folder in LAYERS:
        (package / FOLDERS[folder].rpartition(".")[2]).symlink_to(ROOT / folder)
    return view


def main() -> int:
    """Run mypy with the arguments given, on the whole package."""
    options = [
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
    ]
    command = [sys.executable, "-m", "mypy", *options, *sys.argv[1:], "-p", "optc"]
    return subprocess.run(command, cwd=make_view(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
