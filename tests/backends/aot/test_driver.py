"""The generated C says what the program says and compiles as C and C++, whatever its names."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optc.backends.aot.check_program import check_program
from optc.backends.aot.driver import write_driver
from optc.backends.aot.header import RUNTIME, write_header
from optc.backends.aot.names import comment, identifier, literal
from optc.backends.program import (
    Call,
    Copy,
    ExitIf,
    Operand,
    Port,
    Program,
    RunSegment,
    Segment,
    Space,
    StateSlot,
    Switch,
)
from optc.ir.dtype import DType

ZIG = (sys.executable, "-m", "ziglang")


def test_the_driver_reads_like_the_program(adder: Program) -> None:
    text = write_driver(adder, 0x1234)
    assert "    /* add bias @ model.py:3 */\n" in text
    call = "k_add(m->inputs[0], weights + 4096, arena + 0)"
    assert f"    OPTC_RT_CALL(m, 0, {call});\n" in text
    assert "OPTC_RT_CALL(m, 1, k_double(arena + 0, m->outputs[0]));" in text
    assert "int32_t k_add(void *, void *, void *);" in text
    assert ".weights_digest = 0x0000000000001234u," in text


def test_equal_programs_give_equal_text(adder: Program) -> None:
    assert write_driver(adder, 7) == write_driver(replace(adder), 7)
    assert write_header(adder) == write_header(replace(adder))


NASTY = 'a*/b/*"c"\\ ??/ \n é %d'


@pytest.fixture
def nasty(adder: Program) -> Program:
    """Every kind of step, scalar and empty ports, names that would end a comment or string."""
    byte, word = Operand(Space.INPUT, 1), Operand(Space.STATE, 0)
    copy = Copy(Operand(Space.INPUT, 0), Operand(Space.OUTPUT, 0), 4, NASTY)
    call = Call("k_increment", (word, Operand(Space.INPUT, 0, 0)), NASTY)
    return replace(
        adder,
        name=NASTY,
        inputs=(Port(NASTY, (), DType.I32), Port("flag", (1,), DType.BOOL)),
        outputs=(Port(NASTY, (2, 2), DType.BF16), Port("none", (0, 4), DType.F32)),
        states=(StateSlot(NASTY, (3,), DType.I32, 0), StateSlot("s", (), DType.F64, 64, 64)),
        segments=(Segment(NASTY, (copy, call)), Segment("other", ())),
        flow=(
            RunSegment(NASTY),
            ExitIf(byte, (RunSegment("other"),)),
            Switch(word, ((RunSegment("other"),), (ExitIf(byte),))),
        ),
    )


@pytest.mark.parametrize("compiler", ["cc", "c++"])
def test_it_compiles_without_a_warning(nasty: Program, tmp_path: Path, compiler: str) -> None:
    assert check_program(nasty) == []
    (tmp_path / "model.h").write_text(write_header(nasty))
    (tmp_path / "model.c").write_text(write_driver(nasty, 0))
    (tmp_path / "user.cpp").write_text('#include "model.h"\nint main() { return 0; }\n')
    source, standard = ("model.c", "c11") if compiler == "cc" else ("user.cpp", "c++17")
    flags = (f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-c", f"-I{RUNTIME}")
    done = subprocess.run(
        (*ZIG, compiler, *flags, source), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@given(st.text())
def test_a_literal_is_ascii_and_closed(text: str) -> None:
    inner = literal(text)[1:-1]
    assert inner.isascii()
    assert "\n" not in inner
    assert '"' not in inner.replace("\\\\", "").replace('\\"', "")
    assert "*/" not in comment(text)


@given(st.text())
def test_an_identifier_is_one(text: str) -> None:
    assert identifier(text).isidentifier()
    assert identifier(text).isascii()
    assert not identifier(text).startswith("optc")


def _problems(program: Program, **changes: object) -> str:
    return "\n".join(check_program(replace(program, **changes)))  # type: ignore[arg-type]


def test_addresses_outside_of_their_space_are_found(adder: Program) -> None:
    far = Call("k", (Operand(Space.ARENA, 4097), Operand(Space.OUTPUT, 1)))
    text = _problems(adder, segments=(Segment("main", (far,)),))
    assert "arena has 4096 bytes" in text
    assert "output 1 of 1" in text
    copy = Copy(Operand(Space.ARENA, 4032), Operand(Space.WEIGHTS, 0), 128)
    text = _problems(adder, segments=(Segment("main", (copy,)),))
    assert "128 bytes starts at 4032" in text
    assert "writes to weights" in text


def test_unknown_and_doubled_names_are_found(adder: Program) -> None:
    assert "'nowhere', which does not exist" in _problems(adder, flow=(RunSegment("nowhere"),))
    assert "two inputs are called 'x'" in _problems(adder, inputs=adder.inputs * 2)
    assert "two segments" in _problems(adder, segments=adder.segments * 2)


def test_overlapping_and_crooked_blocks_are_found(adder: Program) -> None:
    slots = (StateSlot("a", (100,), DType.F32, 0), StateSlot("b", (1,), DType.F32, 64))
    assert "two state blocks overlap" in _problems(adder, states=slots)
    assert "not aligned" in _problems(adder, states=(StateSlot("a", (1,), DType.F32, 4),))
    outside = StateSlot("a", (1,), DType.F32, 0, initial=1 << 20)
    assert "outside of the weights" in _problems(adder, states=(outside,))
    assert "no cases" in _problems(adder, flow=(Switch(Operand(Space.ARENA, 0), ()),))
