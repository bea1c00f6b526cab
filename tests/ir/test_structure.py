"""What a model returns: nested as it was written, through text and back, or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optc.ir.builder import Builder
from optc.ir.diagnostics import OptcError
from optc.ir.dtype import DType
from optc.ir.module import Module, module_of
from optc.ir.ops import ew
from optc.ir.structural import module_digest
from optc.ir.structure import Items, Nesting, Structure, filled, tree
from optc.ir.text import parse, print_module
from optc.ir.types import TensorType
from optc.ir.verify import verify

NAMES = ["a", "b.0", "c", "f32", "inf"]
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=5)


def _items(parts: st.SearchStrategy[Structure]) -> st.SearchStrategy[Structure]:
    rows = st.lists(parts, max_size=3).map(tuple)
    named = st.dictionaries(KEYS, parts, max_size=3)
    return st.one_of(
        rows.map(lambda row: Items(Nesting.TUPLE, row)),
        rows.map(lambda row: Items(Nesting.LIST, row)),
        named.map(lambda d: Items(Nesting.DICT, tuple(d.values()), tuple(d))),
    )


STRUCTURES = st.recursive(st.sampled_from([*NAMES, None]), _items, max_leaves=6)


def two() -> Module:
    build = Builder()
    x = build.input(TensorType((2,), DType.F32), "x")
    relu, neg = build.emit(ew.Relu(), x, hint="a"), build.emit(ew.Neg(), x, hint="b")
    return module_of(build.build([relu, neg]))


@given(STRUCTURES)
def test_text_holds_every_structure(returns: Structure) -> None:
    module = replace(two(), returns=returns)
    text = print_module(module)
    again = parse(text)
    assert again.returns == returns
    assert print_module(again) == text


@given(STRUCTURES)
def test_plain_data_says_the_same(returns: Structure) -> None:
    """The manifest's form, filled in by whoever reads it, is the structure filled in directly."""

    def read(item: object) -> object:
        match item:
            case {"tuple": list(parts)}:
                return tuple(map(read, parts))
            case {"list": list(parts)}:
                return [read(part) for part in parts]
            case {"dict": dict(parts)}:
                return {key: read(part) for key, part in parts.items()}
        return item

    assert read(tree(returns, NAMES.index)) == filled(returns, NAMES.index)


def test_the_digest_counts_it() -> None:
    plain = two()
    assert module_digest(replace(plain, returns=Items(Nesting.LIST, ("a", "b")))) != module_digest(
        plain
    )


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        (Items(Nesting.TUPLE, ("a",)), "b is returned 0 times"),
        (Items(Nesting.TUPLE, ("a", "b", "a")), "a is returned 2 times"),
        (Items(Nesting.LIST, ("a", "b", "c")), "names c, which is no output"),
    ],
)
def test_the_verifier_finds_what_does_not_fit(returns: Structure, said: str) -> None:
    (finding,) = verify(replace(two(), returns=returns))
    assert finding.code == "E0126"
    assert said in finding.message


@pytest.mark.parametrize("text", ['{"k": a, "k": b}', "(a, b", "{a: b}", "[" * 100])
def test_what_cannot_be_read(text: str) -> None:
    whole = print_module(two()).replace("  flow {", f"  returns {text}\n  flow {{")
    with pytest.raises(OptcError, match="E0101"):
        parse(whole)
