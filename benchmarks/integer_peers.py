"""Static int8 of ONNX Runtime and of OpenVINO with NNCF beside ours, on the same calibration data.

    python -m benchmarks.integer_peers --data FOLDER --work FOLDER --prepare [CASE ...]
    python -m benchmarks.integer_peers --data FOLDER --work FOLDER --judge [--limit N] [CASE ...]
    python -m benchmarks.integer_peers --work FOLDER --time [CASE ...]
    python -m benchmarks.integer_peers --work FOLDER --write

Each step keeps what it found in the work folder. Batch 1, two threads; f32 of each beside its int8,
called in turns in one process, a process for each system.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quantize_data import CASES, Array, Case

RESULTS = Path(__file__).parent / "results" / "integer_peers.md"
THREADS = 2
ROUNDS, SKIPPED = 150, 10
SYSTEMS = ("optc", "onnxruntime", "openvino")
Call = Callable[[Mapping[str, Array]], Array]


def case_of(name: str, data: Path) -> Case:
    """A case, one sample a call."""
    return replace(CASES[name](data), batch=1)


def samples(arrays: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Calls of one sample."""
    count = len(next(iter(arrays.values())))
    for index in range(count):
        yield {n: np.ascontiguousarray(a[index : index + 1]) for n, a in arrays.items()}


def prepare(name: str, case: Case, work: Path, systems: Sequence[str]) -> None:
    """Both forms of the model for every system."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    if "optc" in systems:
        prepare_ours(case, folder)
    if "onnxruntime" in systems:
        prepare_onnx(case, folder)
    if "openvino" in systems:
        prepare_openvino(case, folder)


def prepare_ours(case: Case, folder: Path) -> None:
    """Artifacts for this machine; all calibration samples are learnt from, as the others do."""
    import torch

    import optc
    from optc.cache import default_cache
    from optc.contexts import pass_context
    from optc.driver import Options, compile_module
    from optc.ir.targets.find import find_target
    from optc.passes.base import run_passes
    from optc.passes.precision.quantize import Quantize
    from optc.passes.standard import CANONICALIZE, RAISE
    from optc.quality.evidence import DataRequest, Evidence

    with torch.no_grad():
        captured = optc.capture(case.model, tensors_of(case))
    ports = [port.name for port in captured.inputs]
    data = dict(zip(ports, case.calibration.values(), strict=True))
    evidence = Evidence(captured, DataRequest(data, calibration=10))
    host = find_target("host")
    whole = run_passes(captured, (*CANONICALIZE, *RAISE), pass_context(host, evidence=evidence))
    bytes_ = run_passes(whole, (Quantize(),), pass_context(host, evidence=evidence))
    for kind, module in (("f32", whole), ("int8", bytes_)):
        compile_module(module, host, folder / f"optc_{kind}", Options(cache=default_cache()))


def tensors_of(case: Case) -> tuple[Any, ...]:
    """One call's inputs."""
    import torch

    return tuple(map(torch.from_numpy, next(samples(case.calibration)).values()))


def prepare_onnx(case: Case, folder: Path) -> None:
    """ONNX of the model, which OpenVINO reads too, and its int8."""
    import onnxruntime as ort
    import torch
    from onnxruntime import quantization as quant
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with torch.no_grad():
        torch.onnx.export(
            case.model, tensors_of(case), str(folder / "f32.onnx"),
            input_names=list(case.calibration), dynamo=True, external_data=False,
        )  # fmt: skip
    calls = [dict(call) for call in samples(case.calibration)]

    class Reader(quant.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(calls)

        def get_next(self) -> dict[str, Array] | None:
            return next(self.left, None)

    ort.set_default_logger_severity(3)
    quant_pre_process(str(folder / "f32.onnx"), str(folder / "pre.onnx"))
    quant.quantize_static(
        str(folder / "pre.onnx"), str(folder / "int8.onnx"), Reader(), per_channel=True,
        quant_format=quant.QuantFormat.QDQ, activation_type=quant.QuantType.QUInt8,
        weight_type=quant.QuantType.QInt8,
    )  # fmt: skip


def prepare_openvino(case: Case, folder: Path) -> None:
    """NNCF on the ONNX; tables stay as they are, as version 3.4 stumbles over those of MiniLM."""
    import nncf
    import openvino as ov

    calls = [dict(call) for call in samples(case.calibration)]
    model = ov.convert_model(str(folder / "f32.onnx"))
    ov.save_model(model, folder / "ov_f32.xml", compress_to_fp16=False)
    tables = nncf.IgnoredScope(types=["Gather"], validate=False)
    kind = nncf.ModelType.TRANSFORMER if "input_ids" in case.calibration else None
    found = nncf.quantize(
        model, nncf.Dataset(calls), subset_size=len(calls), model_type=kind, ignored_scope=tables
    )
    ov.save_model(found, folder / "ov_int8.xml", compress_to_fp16=False)


def loaded(folder: Path, system: str, kind: str) -> tuple[Call, int]:
    """What runs a form of the model, and the bytes of its weights, or model file."""
    if system == "optc":
        import optc
        from optc.inputs import call

        path = folder / f"optc_{kind}"
        artifact = optc.load(path)
        names = [port.name for port in artifact.inputs]

        def ours(inputs: Mapping[str, Array]) -> Array:
            given = dict(zip(names, inputs.values(), strict=True))
            found: Array = next(iter(call(artifact, given).values()))
            return found

        return ours, (path / "weights.bin").stat().st_size
    if system == "onnxruntime":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        file = folder / f"{kind}.onnx"
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        known = {item.name for item in session.get_inputs()}

        def onnx(inputs: Mapping[str, Array]) -> Array:
            found: Array = session.run(None, {n: a for n, a in inputs.items() if n in known})[0]
            return found

        return onnx, file.stat().st_size
    import openvino as ov

    file = folder / f"ov_{kind}.xml"
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS,
              "INFERENCE_PRECISION_HINT": "f32"}  # fmt: skip
    compiled = ov.Core().compile_model(str(file), "CPU", config)
    request = compiled.create_infer_request()

    def vino(inputs: Mapping[str, Array]) -> Array:
        found: Array = request.infer(list(inputs.values()))[compiled.output(0)]
        return found

    return vino, file.with_suffix(".bin").stat().st_size


def judge(name: str, case: Case, work: Path, systems: Sequence[str]) -> None:
    """Scores of every form on all held-out samples; those of other systems stay."""
    page = work / name / "quality.json"
    table: dict[str, Any] = json.loads(page.read_text()) if page.exists() else {}
    for system in systems:
        for kind in ("f32", "int8"):
            run, nbytes = loaded(work / name, system, kind)
            found = np.concatenate([run(call) for call in samples(case.held_out)])
            table[f"{system} {kind}"] = {"scores": case.score(found).tolist(), "bytes": nbytes}
    table["together"] = case.together
    page.write_text(json.dumps(table))
    first = next(samples(case.held_out))
    np.savez(work / name / "first.npz", **first)


def timed(name: str, work: Path, system: str, rounds: int) -> None:
    """Milliseconds of both forms of one system, in turns."""
    with np.load(work / name / "first.npz") as archive:
        inputs = {key: archive[key] for key in archive.files}
    runs = {kind: loaded(work / name, system, kind)[0] for kind in ("f32", "int8")}
    taken: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(rounds):
        for kind, run in runs.items():
            run(inputs)  # what the other left in the caches is paid here
            start = time.perf_counter()
            run(inputs)
            taken[kind].append(1e3 * (time.perf_counter() - start))
    rows = {
        f"{system} {kind}": [float(np.percentile(ms[SKIPPED:], share)) for share in (50, 99)]
        for kind, ms in taken.items()
    }
    (work / name / f"times-{system}.json").write_text(json.dumps(rows))


def timed_apart(name: str, work: Path, rounds: int) -> None:
    """Each system in a process of its own: the threads of one that wait would slow another."""
    for system in SYSTEMS:
        command = [sys.executable, "-m", "benchmarks.integer_peers", name, "--time"]
        more = ["--work", str(work), "--system", system, "--rounds", str(rounds)]
        subprocess.run([*command, *more], check=True)


def table(name: str, work: Path) -> Iterator[str]:
    """Rows of what was found for a model."""
    quality = json.loads((work / name / "quality.json").read_text())
    times: dict[str, list[float]] = {}
    for path in sorted((work / name).glob("times-*.json")):
        times |= json.loads(path.read_text())
    for system in SYSTEMS:
        old, new = (np.array(quality[f"{system} {kind}"]["scores"]) for kind in ("f32", "int8"))
        lost = (old - new).reshape(-1, quality["together"]).mean(1)
        error = 1.96 * lost.std() / np.sqrt(len(lost))
        nbytes = [quality[f"{system} {kind}"]["bytes"] / 1e3 for kind in ("f32", "int8")]
        ms = [times.get(f"{system} {kind}") for kind in ("f32", "int8")]
        pace = ["not timed"] * 3
        if ms[0] and ms[1]:
            pace = [f"{m[0]:.3g} / {m[1]:.3g}" for m in ms] + [f"{ms[0][0] / ms[1][0]:.2f}"]
        cells = [
            name, system, str(len(old)), f"{100 * old.mean():.2f} to {100 * new.mean():.2f}",
            f"{100 * lost.mean():+.2f} ± {100 * error:.2f}", f"{nbytes[0]:.0f} to {nbytes[1]:.0f}",
            *pace,
        ]  # fmt: skip
        yield "| " + " | ".join(cells) + " |"


HEADER = (
    "| model | system | samples | score | lost, points | weights, kB | f32 ms, p50 / p99 |"
    " int8 ms, p50 / p99 | int8 faster by |\n|---|---|---|---|---|---|---|---|---|"
)


def write(work: Path, names: list[str]) -> None:
    """The table of all that was judged."""
    import onnxruntime as ort
    import openvino as ov

    rows = [row for n in names if (work / n / "quality.json").exists() for row in table(n, work)]
    head = (
        "# Static int8 beside the peers'\n\n"
        f"{datetime.now(UTC).date().isoformat()}, {os.cpu_count()} cores, batch 1, two threads,"
        f" ONNX Runtime {ort.__version__} (QDQ, per channel, min-max),"
        f" OpenVINO {ov.__version__.split('-')[0]} + NNCF (defaults), the same calibration samples."
        " `python -m benchmarks.integer_peers` with `--prepare`, `--judge`, `--time`, `--write`."
        " f32 and int8 in turns, a process a system; `lost` is beside the same system's f32.\n\n"
    )
    RESULTS.write_text(head + "\n".join([HEADER, *rows]) + "\n")
    print("\n".join([HEADER, *rows]))


def _step(name: str, given: argparse.Namespace) -> None:
    systems = [given.system] if given.system else SYSTEMS
    if given.prepare or given.judge:
        case = case_of(name, given.data)
        if given.prepare:
            prepare(name, case, given.work, systems)
        if given.judge:
            judge(name, case.first(given.limit) if given.limit else case, given.work, systems)
    if given.time and given.system:
        timed(name, given.work, given.system, given.rounds)
    elif given.time:
        timed_apart(name, given.work, given.rounds)


def main() -> None:
    """One step for the cases named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--system", choices=SYSTEMS, help="this one alone")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    for step in ("prepare", "judge", "time", "write"):
        parser.add_argument(f"--{step}", action="store_true")
    given = parser.parse_args()
    for name in given.cases:
        _step(name, given)
    if given.write:
        write(given.work, given.cases)


if __name__ == "__main__":
    main()
