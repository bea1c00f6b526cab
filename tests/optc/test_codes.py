"""Every code that the source raises has a page, and every page's code is raised somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from optc.ir.codes import page, pages
from optc.ir.diagnostics import OptcError

ROOT = Path(__file__).parents[2]
FOLDERS = ("ir", "passes", "backends", "autotune", "optc")
CODE = re.compile(r"[EWN]\d{4}")


def raised_codes() -> Iterator[tuple[str, str]]:
    """Each string in the source that is a code, with its place."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path == ROOT / "ir" / "codes.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
                if is_text and CODE.fullmatch(node.value):
                    yield node.value, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_raised_code_has_a_page() -> None:
    missing = {code: place for code, place in raised_codes() if code not in pages()}
    assert not missing


def test_every_page_has_a_code_that_is_raised() -> None:
    raised = {code for code, _ in raised_codes()} | {"E0704"}  # that one is in codes.py
    assert sorted(set(pages()) - raised) == []


@pytest.mark.parametrize("code", pages())
def test_a_page_reads_well(code: str) -> None:
    found = pages()[code]
    assert CODE.fullmatch(code)
    assert not found.title.endswith(".")
    last = found.text.splitlines()[-1]
    assert last.endswith((".", "?")) or last.startswith("    ")  # a sentence, or lines to type
    assert max(map(len, found.text.splitlines())) <= 100


def test_codes_are_in_order() -> None:
    assert list(pages()) == sorted(
        pages(), key=lambda code: (code[1:3], "EWN".index(code[0]), code)
    )


def test_an_unknown_code_offers_the_nearest() -> None:
    assert page("e0140") is pages()["E0140"]
    with pytest.raises(OptcError, match="E0140"):
        page("E0149")
