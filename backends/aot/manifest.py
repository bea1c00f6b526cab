"""manifest.json: what an artifact says of itself, to the loader, to the tools and to people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optc.backends.aot.launches import capability
from optc.backends.aot.memory_facts import describe_memory
from optc.backends.aot.names import identifier
from optc.backends.aot.stream_plan import process_bytes
from optc.backends.program import (
    Call,
    Copy,
    ExitIf,
    Operand,
    Port,
    Program,
    RunSegment,
    StateSlot,
    Step,
    Switch,
    exits_of,
)

FORMAT = "optc-artifact"
VERSION = 1  # raised when an older loader would misread the artifact
NAME = "manifest.json"


def describe(program: Program, weights_digest: int, folder: Path) -> dict[str, Any]:
    """The manifest of the artifact whose other files are in `folder`."""
    memory = {
        "arena_bytes": program.arena_bytes,
        "state_bytes": program.state_bytes,
        "weights_bytes": program.weights_bytes,
        "stored_bytes": program.stored_bytes,
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": program.name,
        "prefix": identifier(program.name),
        "target": {
            "triple": program.triple,
            "cpu": program.cpu,
            "features": list(program.features),
            **_gpu(program),
        },
        "inputs": [_port(port) for port in program.inputs],
        "outputs": [_port(port) for port in program.outputs],
        "output_tree": program.output_tree,
        "states": [_state(slot) for slot in program.states],
        **memory,
        "port_bytes": program.port_bytes,
        "peak_bytes": program.peak_bytes,
        "process_bytes": process_bytes(program),
        **_stream(program),
        "memory_map": describe_memory(program),
        "weights_digest": f"{weights_digest:016x}",
        "segments": [
            {"name": segment.name, "calls": [_call(call) for call in segment.calls]}
            for segment in program.segments
        ],
        "flow": _flow(program.flow),
        "exits": [
            {"name": name, "segment": program.segments[index].name}
            for name, index in exits_of(program)
        ],
        "metadata": dict(program.metadata),
        "files": {
            path.relative_to(folder).as_posix(): _fingerprint(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }


def _stream(program: Program) -> dict[str, Any]:
    """How weights come that stay in their file; nothing where all are mapped."""
    plan = program.stream
    if plan is None:
        return {}
    return {
        "stream": {
            "window_bytes": plan.window,
            "pinned_bytes": plan.pinned,
            "tables_bytes": plan.tables,
            "table_rows_bytes": plan.table_rows,
            "blocks": sum(map(len, plan.blocks.values())),
            "read_bytes": sum(b.nbytes for blocks in plan.blocks.values() for b in blocks),
        }
    }


def _gpu(program: Program) -> dict[str, Any]:
    """What GPU the artifact needs; nothing for one that runs on the CPU."""
    if program.device is None:
        return {}
    needed = str(capability(program.device))
    return {"gpu": {"architecture": program.device.architecture, "compute_capability": needed}}


def to_text(manifest: dict[str, Any]) -> str:
    """The manifest as it is written; the same content gives the same text."""
    return json.dumps(manifest, indent=1, ensure_ascii=True) + "\n"


def _port(port: Port | StateSlot) -> dict[str, Any]:
    return {
        "name": port.name,
        "shape": list(port.shape),
        "dtype": port.dtype.value,
        "bytes": port.nbytes,
    }


def _state(slot: StateSlot) -> dict[str, Any]:
    return {**_port(slot), "parameter": True} if slot.parameter else _port(slot)


def _call(call: Call | Copy) -> dict[str, Any]:
    match call:
        case Call(symbol=symbol, label=label, flops=flops, bytes=nbytes):
            return {
                "label": label,
                "kernel": symbol,
                "flops": flops,
                "dtype": call.dtype.value,
                "bytes": nbytes,
                "written": call.written,
                "weights": call.weights,
                "template": call.template,
            }
        case Copy(label=label, nbytes=nbytes):
            moved = {"bytes": 2 * nbytes, "written": nbytes, "weights": 0}
            return {"label": label, "kernel": "memmove", "flops": 0, "dtype": "f32", **moved}


def _flow(steps: Sequence[Step]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in steps:
        match step:
            case RunSegment(name=name):
                rows.append({"run": name})
            case ExitIf(flag=flag, steps=inner):
                rows.append({"exit_if": _operand(flag), "steps": _flow(inner)})
            case Switch(index=index, cases=cases):
                rows.append({"switch": _operand(index), "cases": [_flow(case) for case in cases]})
    return rows


def _operand(operand: Operand) -> str:
    start = f"+{operand.start}" if operand.start else ""
    return f"{operand.space.value}:{operand.offset}{start}"


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
