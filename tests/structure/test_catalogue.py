"""One name in four spellings: the pass's name, class and file, and its golden page."""

from __future__ import annotations

import re

import pytest

from optc.passes.catalogue import BUILT_IN, find_pass
from tests.golden.page import pages

# Passes without a page of their own, each with the reason.
WITHOUT_PAGE: dict[str, str] = {}


def camel(name: str) -> str:
    """`fold-batch-norm` as a class name."""
    return "".join(word.capitalize() for word in name.split("-"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_pass_has_one_name(name: str) -> None:
    module, _, cls = BUILT_IN[name].partition(":")
    assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", name)
    assert module.rpartition(".")[2] == name.replace("-", "_")
    assert cls.casefold() == camel(name).casefold()
    assert find_pass(name).name == name


def test_every_pass_has_its_golden_page_and_every_page_its_pass() -> None:
    assert {path.stem for path in pages()} == set(BUILT_IN) - set(WITHOUT_PAGE)
    assert set(WITHOUT_PAGE) <= set(BUILT_IN)
