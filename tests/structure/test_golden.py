"""The golden infrastructure itself: pages are read, compared and rewritten as their README says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.golden.page import INPUT, OUTPUT, REMARKS, cases, rewrite
from tests.structure.tree import ROOT

PAGE = """# fuse

Prose with `code`.

## One

```optc input
a
# not a heading
```

```optc output
old
older
```

After.

## Two

```optc input
b
```

```pipeline target=cortex-a72
fuse{max_nodes=2}
```

## Prose only

Nothing to run.
"""


def page(folder: Path) -> Path:
    """The page above, on disk."""
    path = folder / "fuse.md"
    path.write_text(PAGE)
    return path


def test_a_section_with_an_input_is_a_case(tmp_path: Path) -> None:
    one, two = cases(page(tmp_path))
    assert (one.title, one.pipeline, one.target) == ("One", "fuse", "x86-64-v3")
    assert (two.title, two.pipeline, two.target) == ("Two", "fuse{max_nodes=2}", "cortex-a72")
    assert one.text(INPUT) == "a\n# not a heading\n"
    assert one.text(OUTPUT) == "old\nolder\n"
    assert two.text(OUTPUT) == ""


def test_rewriting_touches_the_expected_blocks_only(tmp_path: Path) -> None:
    path = page(tmp_path)
    one, two = cases(path)
    rewrite(one, {OUTPUT: "new\n", REMARKS: ""})
    rewrite(two, {OUTPUT: "c\nd\n", REMARKS: "N0309 why\n"})
    expected = PAGE.replace("old\nolder\n", "new\n").replace(
        "fuse{max_nodes=2}\n```\n",
        "fuse{max_nodes=2}\n```\n\n```optc output\nc\nd\n```\n\n```remarks\nN0309 why\n```\n",
    )
    assert path.read_text() == expected
    assert [case.text(OUTPUT) for case in cases(path)] == ["new\n", "c\nd\n"]


def test_a_wrong_page_fails_with_the_difference_and_update_mends_it(tmp_path: Path) -> None:
    folder = tmp_path / "golden"
    folder.mkdir()
    # A folder of its own, so that a rewritten page is never one of the repository's.
    (folder / "conftest.py").write_text((ROOT / "tests/golden/conftest.py").read_text())
    path = folder / "remove-dead.md"
    path.write_text(
        "# remove-dead\n\n## A value nobody reads\n\n```optc input\n"
        "graph @main(%x: 4xf32) {\n  %a = exp(%x) : 4xf32\n  %b = relu(%x) : 4xf32\n"
        "  return %b\n}\n"
        "```\n\n```optc output\nwrong\n```\n"
    )
    wrong = pytest_on(path)
    assert wrong.returncode == 1
    assert "-wrong" in wrong.stdout
    assert "Traceback" not in wrong.stdout
    assert pytest_on(path, "--update").returncode == 0
    assert pytest_on(path).returncode == 0
    (case,) = cases(path)
    assert "relu" in case.text(OUTPUT)
    assert "exp" not in case.text(OUTPUT)


def pytest_on(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on one page in a process of its own, with this project's settings."""
    plugin = ["-p", "tests.conftest", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), *plugin]
    return subprocess.run(
        [*command, *options, str(path)], cwd=ROOT, check=False, capture_output=True, text=True
    )
