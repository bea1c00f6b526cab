"""Kernels for another machine: linked into one static program and run by an emulator."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.backends.tvm.codegen import PARALLEL_LAUNCH, compile_functions
from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.plan import Problem
from optc.ir.graph import Value
from optc.ir.targets.find import find_target
from tests.backends.tvm.loaded import packed
from tests.backends.tvm.templates.agreement import Case

# Two shares, run in turn; every buffer is 64-byte aligned, as in an artifact.
_LAUNCH = f"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
struct group {{ void *sync; int32_t count; }};
typedef int (*body)(int, struct group *, void *);
static int run(body work, void *data, int count) {{
    struct group group = {{0, count ? count : 2}};
    for (int i = 0; i < group.count; ++i) if (work(i, &group, data)) return 1;
    return 0;
}}
int (*{PARALLEL_LAUNCH})(body, void *, int) = run;
static void *block(size_t bytes) {{ return aligned_alloc(64, (bytes + 127) / 64 * 64); }}
static void *load(FILE *file, size_t bytes) {{
    void *data = block(bytes);
    if (fread(data, 1, bytes, file) != bytes) exit(2);
    return data;
}}
"""


def run_crossed(
    cases: Sequence[Case], target: str, triple: str, emulator: str
) -> list[list[Tensor]]:
    """Outputs of each case, computed by `emulator` on `inputs_of(case)`."""
    machine = find_target(target)
    functions, calls, content = [], [], b""
    for number, case in enumerate(cases):
        plan, _ = match(Problem(case.body, case.constants, machine))
        emitted = plan.emit(f"k{number}", plan.candidates()[0])
        functions.append(emitted.function)
        arrays = [packed(x, emitted.packs.get(i)) for i, x in enumerate(case.inputs(number))]
        content += b"".join(_bytes(array) for array in arrays)
        calls.append([len(_bytes(array)) for array in arrays])
    compiled = compile_functions(functions, machine)
    source = _LAUNCH
    for number, case in enumerate(cases):
        count = len(calls[number]) + len(case.body.outputs) + (compiled.workspace[f"k{number}"] > 0)
        source += f"int32_t k{number}({', '.join(['void *'] * count)});\n"
    source += 'int main(void) {\nFILE *in = fopen("in.bin", "rb"), *out = fopen("out.bin", "wb");\n'
    for number, case in enumerate(cases):
        source += _call(number, calls[number], case, compiled.workspace[f"k{number}"])
    source += "return fclose(out);\n}\n"
    with tempfile.TemporaryDirectory() as folder:
        for name, data in (
            ("main.c", source.encode()),
            ("k.o", compiled.data),
            ("in.bin", content),
        ):
            Path(folder, name).write_bytes(data)
        zig = (sys.executable, "-m", "ziglang", "cc", "-target", triple, "-static", "-O1")
        subprocess.run((*zig, "main.c", "k.o", "-lm", "-o", "program"), check=True, cwd=folder)
        subprocess.run((emulator, "./program"), check=True, cwd=folder)
        return _outputs(cases, Path(folder, "out.bin").read_bytes())


def _call(number: int, sizes: Sequence[int], case: Case, workspace: int) -> str:
    lines, names = [], []
    for i, size in enumerate(sizes):
        lines.append(f"void *a{i} = load(in, {size});")
        names.append(f"a{i}")
    for i, value in enumerate(case.body.outputs):
        lines.append(f"void *o{i} = block({value.type.nbytes});")
        names.append(f"o{i}")
    if workspace:
        lines.append(f"void *w = block({workspace});")
        names.append("w")
    lines.append(f"if (k{number}({', '.join(names)})) return {number + 3};")
    for i, value in enumerate(case.body.outputs):
        lines.append(f"fwrite(o{i}, 1, {value.type.nbytes}, out);")
    return "{\n" + "\n".join(lines) + "\n}\n"


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.contiguous()
    return (
        (flat.view(torch.uint8) if flat.dim() else flat.reshape(1).view(torch.uint8))
        .numpy()
        .tobytes()
    )


def _outputs(cases: Sequence[Case], content: bytes) -> list[list[Tensor]]:
    results, at = [], 0
    for case in cases:
        found = []
        for value in case.body.outputs:
            data = content[at : at + value.type.nbytes]
            at += value.type.nbytes
            found.append(_tensor(data, value))
        results.append(found)
    return results


def _tensor(data: bytes, value: Value) -> Tensor:
    raw = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
    return raw.view(TORCH_DTYPE[value.type.dtype]).reshape(value.type.shape)
