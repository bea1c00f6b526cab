"""What every pass of the catalogue keeps, whatever it does."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from enum import Enum
from types import UnionType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optc.backends.reference.fold import evaluate_constants
from optc.ir.diagnostics import OptcError
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.catalogue import BUILT_IN, find_pass
from optc.passes.pipeline import Pipeline

NOTHING_TO_DO = "graph @main(%x: 2x3xf32, %i: 4xi64) {\n  return %x, %i\n}\n"
WORDS = st.text("abcdefghijklmnopqrstuvwxyz_-", min_size=1).filter(lambda word: word != "none")

everywhere = pytest.mark.parametrize("name", BUILT_IN)


def values(wanted: object) -> st.SearchStrategy[object]:
    """Values of an option's type; a type that is not here cannot be spelled on a command line."""
    if typing.get_origin(wanted) in (typing.Union, UnionType):
        return st.one_of(*map(values, typing.get_args(wanted)))
    if typing.get_origin(wanted) is tuple:
        return st.lists(values(typing.get_args(wanted)[0]), max_size=3).map(tuple)
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return st.sampled_from(wanted)
    table: dict[object, st.SearchStrategy[object]] = {
        bool: st.booleans(),
        int: st.integers(1, 1000),
        float: st.floats(0, 1),
        str: WORDS,
        type(None): st.none(),
    }
    return table[wanted]


def options_of(cls: type[Pass]) -> dict[str, st.SearchStrategy[object]]:
    """A strategy for each option of a pass."""
    hints = typing.get_type_hints(cls)
    return {field.name: values(hints[field.name]) for field in dataclasses.fields(cls)}


@everywhere
def test_a_pass_is_frozen_documented_and_says_its_effect(name: str) -> None:
    cls = find_pass(name)
    assert cls.effect in Effect
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert inspect.getdoc(cls) not in (None, inspect.getdoc(Pass))
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(cls))


@everywhere
@given(data=st.data())
def test_options_print_and_parse_back(name: str, data: st.DataObject) -> None:
    cls = find_pass(name)
    chosen = {key: data.draw(values, key) for key, values in options_of(cls).items()}
    step = cls(**chosen)
    assert Pipeline.parse(str(step)).passes == (step,)


@everywhere
def test_an_unknown_option_is_the_users_error(name: str) -> None:
    with pytest.raises(OptcError, match="E0132"):
        Pipeline.parse(f"{name}{{no-such-option=1}}")


@everywhere
def test_a_pass_without_work_returns_the_same_object(name: str) -> None:
    module = parse(NOTHING_TO_DO)
    context = PassContext(find_target("x86-64-v3"), evaluate=evaluate_constants)
    assert find_pass(name)().run(module, context) is module
    assert context.diagnostics == []
