"""No text crashes the parser: it is read, or refused with a place."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from optc.ir.diagnostics import OptcError
from optc.ir.printer import print_module
from optc.ir.text import parse

TEXT = """module @m {
  input x : 2x8xf32
  output y : 2x8xf32
  state s = {splat=0.0} : 2x8xf32
  returns {"y": [(y,), none]}
  flow {
    y, s = run @main(x, s)
  }
  graph @main(%x: 2x8xf32, %s: 2x8xf32) {
    %w = constant {seed=1} : 8x8xf32
    %c = constant {values=(1.0, -inf, nan)} : 3xf32
    %d = constant {digest="abc"} : 100xf32
    %t = task(%x, %w) : 2x8xf32 @ "m.py":3 in "head" {
      graph @linear(%x: 2x8xf32, %w: 8x8xf32) {
        %l = linear(%x, %w) : 2x8xf32
        %r = reshape(%l) {shape=(16,)} : 16xf32
        return %l
      }
    }
    %a = add(%t, %s) : 2x8xf32
    return %a, %t
  }
}
"""
PIECES = TEXT.replace("\n", " \n ").split(" ")
WORDS = st.sampled_from(
    [*PIECES, "-", "9" * 400, "1e999", '"', "\\", "((((", "@", "%", "0x0xf32", "\x00"]
)


def never_crashes(text: str) -> None:
    """Parse; what is accepted must print and parse again to the same text."""
    try:
        module = parse(text)
    except OptcError as problem:
        (finding,) = problem.diagnostics
        assert (finding.code, bool(finding.loc)) == ("E0101", True)
        return
    printed = print_module(module)
    assert print_module(parse(printed)) == printed


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    never_crashes(text)


@given(st.lists(WORDS, max_size=60))
def test_any_words(words: list[str]) -> None:
    never_crashes(" ".join(words))


@settings(max_examples=400)
@given(st.integers(0, len(PIECES) - 1), st.integers(0, 4), st.lists(WORDS, max_size=3))
def test_a_module_with_words_exchanged(start: int, count: int, words: list[str]) -> None:
    never_crashes(" ".join([*PIECES[:start], *words, *PIECES[start + count :]]))


@settings(max_examples=400)
@given(st.integers(0, len(TEXT)), st.integers(0, 3), st.text(max_size=3))
def test_a_module_with_characters_exchanged(start: int, count: int, text: str) -> None:
    never_crashes(TEXT[:start] + text + TEXT[start + count :])


def test_depth_is_bounded() -> None:
    never_crashes("graph @g(%x: 2xf32) { %y = reshape(%x) {shape=" + "(" * 100_000)
    never_crashes("graph @g() { %y = task() : 2xf32 { " * 2000)
