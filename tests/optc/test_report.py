"""The report: numbers for people, a page that stands alone, no markup from names of a model."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from optc.backends.program import Call, Copy, Operand, Program, RunSegment, Segment, Space
from optc.ir.diagnostics import Diagnostic, Loc, Severity
from optc.ir.module import Module
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.memory import Fit
from optc.observers import PassRecord
from optc.report.html import render
from optc.report.numbers import bytes_text, count_text, place_text, seconds_text

TEXT = """module @m {
  input x : 2x8xf32
  output y : 2x8xf32
  flow {
    y = run @main(x)
  }
  graph @main(%x: 2x8xf32) {
    %y = relu(%x) : 2x8xf32
    return %y
  }
}"""


class Tags(HTMLParser):
    """Collects tags that are open, and every address that the page asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(
    module: Module,
    diagnostics: tuple[Diagnostic, ...] = (),
    source: Module | None = None,
    fit: Fit | None = None,
) -> str:
    operands = (Operand(Space.INPUT, 0), Operand(Space.OUTPUT, 0))
    calls = (Call("k", operands, "relu <2x8xf32> @ m.py:3", 16, 128), Copy(*operands, 64, "copy y"))
    segments = (Segment("main", calls),)
    program = Program("m", (), (), segments, (RunSegment("main"),), (), "x86_64-linux-gnu")
    passes = (PassRecord("fuse", 0.1, 3, 1, True), PassRecord("idle", 0.2, 1, 1, False))
    machine = find_target("cortex-a76")
    return render(source or module, module, program, machine, passes, diagnostics, fit=fit)


def test_the_page_is_well_formed_and_asks_for_nothing() -> None:
    tags = Tags()
    tags.feed(page(parse(TEXT)))
    assert tags.open == []
    assert tags.addresses == []


def test_the_page_holds_no_clock() -> None:
    text = page(parse(TEXT))
    assert text == page(parse(TEXT))
    assert "0.1" not in text
    assert "0.2" not in text


def test_names_cannot_inject_markup() -> None:
    remark = Diagnostic("N0001", "<script>x</script>", Severity.REMARK, Loc("a<b.py", 1))
    text = page(parse(TEXT), (remark, remark))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "relu &lt;2x8xf32&gt;" in text


def test_what_is_not_returned_any_more_is_no_output() -> None:
    module = parse(TEXT)
    (port,) = module.outputs
    early = replace(port, name="early")
    text = page(module, source=replace(module, outputs=(early, port)))
    assert f"<li>output <code>{port.name}: " in text
    assert "<li>output <code>early: " not in text
    assert "are not returned: <code>early</code>" in text
    assert "not returned" not in page(module)


def test_a_memory_budget_is_answered() -> None:
    fit = Fit(32_000_000, 57_000_000, 12_000_000, streamed=True)
    assert "fits: 12.0 MB with process and code, weights streamed" in page(parse(TEXT), fit=fit)
    assert "memory budget" not in page(parse(TEXT))


def test_light_and_dark() -> None:
    assert "prefers-color-scheme: dark" in page(parse(TEXT))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (91_234_567, "91.2 MB"), (999_999, "1.00 MB")],
)
def test_bytes(number: int, text: str) -> None:
    assert bytes_text(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (9999, "9 999"), (22_713_216, "22.7 M"), (4.1e9, "4.10 G")]
)
def test_counts(number: float, text: str) -> None:
    assert count_text(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ns"),
        (2.5e-8, "25 ns"),
        (7.8e-6, "7.80 µs"),
        (4.56e-3, "4.56 ms"),
        (12.34, "12.3 s"),
        (61, "1 min 01 s"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("", ""),
        ("m.py:3", "m.py:3"),
        ("/home/me/m.py:3 (head)", "m.py:3 head"),
        ("m.py:3 (a.b.c.d.e)", "m.py:3 ...b.c.d.e"),
    ],
)
def test_places(place: str, text: str) -> None:
    assert place_text(place) == text
