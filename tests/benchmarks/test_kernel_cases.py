"""What kernels are held to in the benchmark: a plain reading reads everything that it says."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from benchmarks.kernel_cases import reading
from optc.backends.aot.link import find_toolchain
from optc.backends.tvm.codegen import compile_functions
from optc.ir.targets.detect import host


def test_reading_sums_all_floats_but_the_last_few(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    kept = getattr(pytestconfig, "cache", None)
    cache = Path(kept.mkdir("limits")) if kept else tmp_path
    target, toolchain = host(), find_toolchain(host().triple, cache)
    step = 8 * target.vector_bits // 32
    size = 5 * step * target.cores + step - 1
    (tmp_path / "read.o").write_bytes(
        compile_functions([reading(size, "read", target)], target).data
    )
    (tmp_path / "pool.o").write_bytes(toolchain.runtime(cache)["pool.o"])
    toolchain.share(("read.o", "pool.o"), ("read",), "read.so", tmp_path)
    library = ctypes.CDLL(str(tmp_path / "read.so"))
    floats = np.arange(size, dtype=np.float32)
    found = np.zeros(target.cores * step, np.float32)
    assert (
        library.read(floats.ctypes.data_as(ctypes.c_void_p), found.ctypes.data_as(ctypes.c_void_p))
        == 0
    )
    parts = floats[: 5 * step * target.cores].reshape(target.cores, 5, step)
    np.testing.assert_array_equal(found.reshape(target.cores, step), parts.sum(axis=1))
