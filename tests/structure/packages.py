"""The package list of pyproject.toml and the folders on disk are one.

`python -m tests.structure.packages` says what differs; `--update` writes the list.
"""

from __future__ import annotations

import re
import sys
import tomllib

from tests.structure.tree import FOLDERS, ROOT

PYPROJECT = ROOT / "pyproject.toml"
_LIST = re.compile(r"(?m)^packages = \[\n.*?^\]\n", re.DOTALL)


def packages_on_disk() -> list[str]:
    """The package name of every folder that holds an `__init__.py`."""
    found = []
    for folder, package in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            found.append(".".join((package, *parts)))
    return sorted(found)


def packages_listed() -> list[str]:
    """What setuptools is told to install."""
    setuptools = tomllib.loads(PYPROJECT.read_text())["tool"]["setuptools"]
    return list(setuptools["packages"])


def folders_mapped() -> dict[str, str]:
    """The folder of each package that does not lie where its name says."""
    setuptools = tomllib.loads(PYPROJECT.read_text())["tool"]["setuptools"]
    return dict(setuptools["package-dir"])


def update() -> None:
    """Write the list of what is on disk into pyproject.toml."""
    lines = "".join(f'    "{name}",\n' for name in packages_on_disk())
    text = PYPROJECT.read_text()
    PYPROJECT.write_text(_LIST.sub(f"packages = [\n{lines}]\n", text, count=1))


def main() -> int:
    """Say what differs, or mend it."""
    if "--update" in sys.argv[1:]:
        update()
    listed, found = set(packages_listed()), set(packages_on_disk())
    for name in sorted(found - listed):
        print(f"not listed: {name}")
    for name in sorted(listed - found):
        print(f"not on disk: {name}")
    return int(listed != found)


if __name__ == "__main__":
    sys.exit(main())
