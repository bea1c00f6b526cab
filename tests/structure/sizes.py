"""Lines of Python and C per folder, so that growth is seen: `python -m tests.structure.sizes`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.structure.tree import FOLDERS, ROOT

SUFFIXES = (".py", ".c", ".h")


@dataclass
class Size:
    """The files of one folder."""

    lines: list[int] = field(default_factory=list)
    longest: Path | None = None

    def add(self, path: Path) -> None:
        """Count one file."""
        count = len(path.read_text().splitlines())
        if not self.lines or count > max(self.lines):
            self.longest = path
        self.lines.append(count)


def sizes() -> dict[str, Size]:
    """The size of each package folder (two levels deep), and of tests, benchmarks, examples."""
    found: dict[str, Size] = defaultdict(Size)
    for top in (*FOLDERS, "tests", "benchmarks", "examples"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                found["/".join(path.relative_to(ROOT).parts[:-1][:2])].add(path)
    return dict(found)


def main() -> None:
    """Print the table, and tests against source."""
    print(f"{'folder':<28}{'files':>6}{'lines':>8}{'median':>8}{'max':>6}  longest")
    table = sizes()
    for folder, size in table.items():
        longest = size.longest.name if size.longest else ""
        numbers = f"{len(size.lines):>6}{sum(size.lines):>8}{median(size.lines):>8.0f}"
        print(f"{folder:<28}{numbers}{max(size.lines):>6}  {longest}")
    source = sum(sum(s.lines) for name, s in table.items() if name.split("/")[0] in FOLDERS)
    tests = sum(sum(s.lines) for name, s in table.items() if name.split("/")[0] == "tests")
    print(f"\nsource {source} lines, tests {tests} lines, tests : source = {tests / source:.2f}")


if __name__ == "__main__":
    main()
