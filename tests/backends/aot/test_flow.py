"""State, early exits, switches and copies: control flow and memory that outlives a call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optc.backends.aot.package import write_artifact
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
    Step,
    Switch,
    place_weights,
)
from optc.ir.diagnostics import OptcError
from optc.ir.dtype import DType
from optc.runtime import Artifact, load

WORD = (Port("n", (), DType.I32),)


def at(space: Space, offset: int = 0, start: int = 0) -> Operand:
    """Shorter."""
    return Operand(space, offset, start)


def made(program: Program, folder: Path, cache: Path) -> Artifact:
    """The program built and loaded."""
    return load(write_artifact(program, folder / "out", cache=cache).path)


def say(name: str, weight: int) -> Segment:
    """A segment whose output is a constant."""
    copy = Copy(at(Space.WEIGHTS, 64 * weight), at(Space.OUTPUT, 0), 4, f"say {name}")
    return Segment(name, (copy,))


def test_state_lives_from_call_to_call(without_ports: Program, tmp_path: Path, cache: Path) -> None:
    state, arena = at(Space.STATE, 64), at(Space.ARENA)
    calls = (
        Call("k_increment", (state, arena), "count"),
        Copy(arena, state, 4, "update count"),
        Copy(arena, at(Space.OUTPUT, 0), 4, "copy n"),
    )
    program = replace(
        without_ports,
        outputs=WORD,
        arena_bytes=64,
        weights=place_weights([np.array([40], np.int32)]),
        states=(StateSlot("zero", (3,), DType.F32, 0), StateSlot("count", (), DType.I32, 64, 0)),
        segments=(Segment("main", calls),),
        flow=(RunSegment("main"),),
    )
    artifact = made(program, tmp_path, cache)
    assert [int(artifact()) for _ in range(3)] == [41, 42, 43]
    other = artifact.another()
    assert int(other()) == 41
    assert int(artifact.state("count")) == 43
    artifact.set_state("count", np.array(7, np.int32))
    assert int(artifact()) == 8
    artifact.set_state("zero", np.ones(3, np.float32))
    artifact.reset()
    assert int(artifact()) == 41
    assert artifact.state("zero").tolist() == [0, 0, 0]
    with pytest.raises(OptcError, match="E0521"):
        artifact.set_state("zero", np.ones(4, np.float32))
    assert int(other()) == 42


def test_an_exit_skips_the_rest(without_ports: Program, tmp_path: Path, cache: Path) -> None:
    less = Call("k_less", (at(Space.INPUT, 0), at(Space.WEIGHTS, 0), at(Space.ARENA)), "n < 10")
    program = replace(
        without_ports,
        inputs=WORD,
        outputs=WORD,
        arena_bytes=64,
        weights=place_weights([np.array([v], np.int32) for v in (10, 111, 222)]),
        segments=(Segment("test", (less,)), say("early", 1), say("late", 2)),
        flow=(
            RunSegment("test"),
            ExitIf(at(Space.ARENA), (RunSegment("early"),)),
            RunSegment("late"),
        ),
    )
    artifact = made(program, tmp_path, cache)
    assert [int(artifact(np.int32(n))) for n in (3, 30, 9, 10)] == [111, 222, 111, 222]
    profile = artifact.profile(np.int32(3), runs=5)
    assert profile.segment_runs == {"test": 5, "early": 5, "late": 0}
    assert [kernel.calls for kernel in profile.kernels] == [5, 5, 0]


def test_a_switch_takes_the_case_that_is_named(
    without_ports: Program, tmp_path: Path, cache: Path
) -> None:
    cases: tuple[tuple[Step, ...], ...] = (
        (RunSegment("zero"),),
        (RunSegment("zero"), RunSegment("one")),
        (RunSegment("two"),),
    )
    program = replace(
        without_ports,
        inputs=WORD,
        outputs=WORD,
        weights=place_weights([np.array([v], np.int32) for v in (100, 101, 102)]),
        segments=tuple(say(name, i) for i, name in enumerate(("zero", "one", "two"))),
        flow=(Switch(at(Space.INPUT, 0), cases),),
    )
    artifact = made(program, tmp_path, cache)
    answers = {n: int(artifact(np.int32(n))) for n in (0, 1, 2, 3, -1)}
    assert answers == {0: 100, 1: 101, 2: 102, 3: 102, -1: 102}


def test_parts_of_inputs_and_outputs_have_addresses(
    without_ports: Program, tmp_path: Path, cache: Path
) -> None:
    port = (Port("x", (4,), DType.I32),)
    swap = tuple(
        Copy(at(Space.INPUT, 0, 4 * i), at(Space.OUTPUT, 0, 4 * (3 - i)), 4) for i in range(4)
    )
    program = replace(
        without_ports,
        inputs=port,
        outputs=port,
        segments=(Segment("main", swap),),
        flow=(RunSegment("main"),),
    )
    x = np.array([1, 2, 3, 4], np.int32)
    assert made(program, tmp_path, cache)(x).tolist() == [4, 3, 2, 1]


def test_a_program_that_does_nothing(without_ports: Program, tmp_path: Path, cache: Path) -> None:
    program = replace(without_ports, outputs=(Port("none", (0, 3), DType.F32),))
    assert made(program, tmp_path, cache)().shape == (0, 3)


def test_a_kernel_that_fails_is_named(without_ports: Program, tmp_path: Path, cache: Path) -> None:
    call = Call("k_fail_in_task", (at(Space.INPUT, 0), at(Space.OUTPUT, 0)), "bad op")
    program = replace(
        without_ports,
        inputs=WORD,
        outputs=WORD,
        segments=(Segment("main", (call,)),),
        flow=(RunSegment("main"),),
    )
    artifact = made(program, tmp_path, cache)
    for threads in (1, 2, 5):
        artifact.set_threads(threads)
        with pytest.raises(OptcError, match=r"E0524.*k_fail_in_task \(bad op\).* status 5"):
            artifact(np.int32(0))
