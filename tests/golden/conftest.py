"""Collects golden pages: each case is one test of its text and one of its numbers."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden import page, promise


class Mismatch(AssertionError):
    """What came out is not what the page says."""


class GoldenPage(pytest.File):
    """One page."""

    def collect(self) -> Iterator[pytest.Item]:
        """Two tests per case: the text, and the numbers that the pass's effect promises."""
        found = page.cases(self.path)
        if not found:
            raise self.CollectError(f"{self.path.name} has no ```{page.INPUT} block")
        if len({case.title for case in found}) < len(found):
            raise self.CollectError(f"{self.path.name}: two cases have one heading")
        for case in found:
            yield GoldenText.from_parent(self, name=case.title, case=case)
            yield GoldenNumbers.from_parent(self, name=f"{case.title} [numbers]", case=case)


class GoldenItem(pytest.Item):
    """A test made of a case."""

    def __init__(self, *, case: page.Case, **rest: Any) -> None:
        super().__init__(**rest)
        self.case = case

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the difference alone: no traceback helps a reader of a page."""
        if isinstance(excinfo.value, Mismatch):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the case stands."""
        return self.path, self.case.line, self.name


class GoldenText(GoldenItem):
    """The printed module and the remarks are those on the page."""

    def runtest(self) -> None:
        """Run the pipeline and compare, or rewrite the page under `--update`."""
        outcome = promise.run_case(self.case)
        actual = {page.OUTPUT: outcome.text, page.REMARKS: outcome.remarks}
        if self.config.getoption("--update"):
            page.rewrite(self.case, actual)
            return
        for info, text in actual.items():
            expected = self.case.text(info)
            if text != expected:
                pair = expected.splitlines(), text.splitlines()
                lines = difflib.unified_diff(*pair, "on the page", "now", lineterm="")
                head = f"{self.path.name}: {self.case.title}: ```{info} (--update rewrites)"
                raise Mismatch("\n".join([head, *lines]))


class GoldenNumbers(GoldenItem):
    """The result round-trips, is stable, and computes what its passes' effects promise."""

    def runtest(self) -> None:
        """Evaluate before and after on seeded inputs."""
        try:
            promise.check_numbers(self.case)
        except AssertionError as problem:
            raise Mismatch(f"{self.path.name}: {self.case.title}: {problem}") from problem


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> GoldenPage | None:
    """Every Markdown file here but the folder's own README is a page."""
    if file_path.suffix == ".md" and file_path.name != "README.md":
        return GoldenPage.from_parent(parent, path=file_path)
    return None
