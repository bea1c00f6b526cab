"""`optc.load`: runs an artifact from Python with numpy and nothing else of weight.

The library does the work; here are only the checks that make a wrong call a sentence, and the way
from arrays to pointers. ctypes releases the interpreter lock while the model runs.
"""

from __future__ import annotations

import ctypes
import platform
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from optc.arrays import Tensor, bind, empty, nest
from optc.bundle import Bundle, open_bundle
from optc.ir.diagnostics import OptcError, error
from optc.library_ports import check_ports

_ARCHES = {"amd64": "x86_64", "arm64": "aarch64", "armv7l": "arm", "armv7": "arm", "armv8l": "arm"}
# What the C functions answer (runtime/optc.h), and the page that explains it.
_CODES = {
    1: "E0523",
    2: "E0510",
    3: "E0514",
    4: "E0513",
    5: "E0525",
    6: "E0524",
    7: "E0516",
    8: "E0517",
}
_SKIP_DIGEST, _COPY_WEIGHTS = 1, 2


@dataclass(frozen=True, slots=True)
class KernelTime:
    """What one kernel call cost in nanoseconds, and what it computes and moves each time.

    `dtype` is the one whose multiply-adds its time goes to; of the bytes, `written` are written and
    `weights` are read of weights.
    """

    label: str
    kernel: str
    segment: str
    flops: int
    bytes: int
    calls: int
    total_ns: int
    fastest_ns: int
    dtype: str = "f32"
    written: int = 0
    weights: int = 0


@dataclass(frozen=True, slots=True)
class Profile:
    """The kernel calls in order, and how often each segment ran."""

    kernels: tuple[KernelTime, ...]
    segment_runs: Mapping[str, int]


class _Options(ctypes.Structure):
    _fields_ = (("threads", ctypes.c_int), ("flags", ctypes.c_uint))


class _Entry(ctypes.Structure):
    _fields_ = (
        ("label", ctypes.c_char_p),
        ("symbol", ctypes.c_char_p),
        ("segment", ctypes.c_char_p),
        ("flops", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("calls", ctypes.c_uint64),
        ("total_ns", ctypes.c_uint64),
        ("fastest_ns", ctypes.c_uint64),
    )


class _Library:
    """The C functions of one model, without their prefix."""

    def __init__(self, path: Path, prefix: str) -> None:
        try:
            self.functions = _loaded(path)
            self.create = self._function(f"{prefix}_create", ctypes.c_int)
            self.destroy = self._function(f"{prefix}_destroy", None)
            self.run = self._function(f"{prefix}_run", ctypes.c_int)
            self.bench = self._function(f"{prefix}_bench", ctypes.c_int)
            self.last_error = self._function(f"{prefix}_last_error", ctypes.c_char_p)
            self.set_threads = self._function(f"{prefix}_set_threads", ctypes.c_int)
            self.state_get = self._function(f"{prefix}_state_get", ctypes.c_int)
            self.state_set = self._function(f"{prefix}_state_set", ctypes.c_int)
            self.state_reset = self._function(f"{prefix}_state_reset", ctypes.c_int)
            self.profile_start = self._function(f"{prefix}_profile_start", ctypes.c_int)
            self.profile_stop = self._function(f"{prefix}_profile_stop", ctypes.c_int)
            self.profile_get = self._function(f"{prefix}_profile_get", ctypes.c_int)
            self.segment_runs = self._function(f"{prefix}_segment_runs", ctypes.c_uint64)
            self.set_parameter = self._function(f"{prefix}_set_parameter", ctypes.c_int)
            self.get_parameter = self._function(f"{prefix}_get_parameter", ctypes.c_int)
            self.exit_runs = self._function(f"{prefix}_exit_runs", ctypes.c_uint64)
        except (OSError, AttributeError) as problem:
            raise error(
                "E0515", f"{path} cannot be loaded: {problem}", help="compile the model again"
            ) from problem

    def _function(self, name: str, result: Any) -> Any:
        function = getattr(self.functions, name)
        function.restype = result
        return function

    def check(self, code: int) -> None:
        """Raises what the C side said when `code` is not 0."""
        if code:
            sentence = (self.last_error() or b"").decode(errors="replace")
            raise error(_CODES.get(code, "E0524"), sentence or f"the library answered {code}")


def _loaded(path: Path) -> ctypes.CDLL:
    """The library that lies at `path` now.

    The loader takes a path it has met before for the library it found there then. A compilation
    into the same folder would not be seen, so the file is loaded by a name of its own.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="optc-") as folder:
            name = Path(folder, path.name)
            name.symlink_to(path)
            return ctypes.CDLL(str(name))
    except FileNotFoundError:  # no folder for temporary files, as on some devices
        return ctypes.CDLL(str(path))


class Artifact:
    """A loaded model: call it with arrays, by position or by name.

    It may be called from several threads, one call at a time; `another()` gives an instance with
    buffers and state of its own for calls at the same time.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int = 0, verify: bool = True, copy: bool = False
    ) -> None:
        """See `load`."""
        self.manifest = bundle.manifest
        self.path = bundle.folder
        self.name: str = bundle.manifest["name"]
        self.inputs = tuple(map(Tensor.of, bundle.manifest["inputs"]))
        self.outputs = tuple(map(Tensor.of, bundle.manifest["outputs"]))
        self.states = tuple(map(Tensor.of, bundle.manifest["states"]))
        entries = bundle.manifest["states"]
        self._parameters = tuple(entry["name"] for entry in entries if entry.get("parameter"))
        self.exits = tuple(entry["name"] for entry in bundle.manifest.get("exits", ()))
        self._bundle = bundle
        self._arguments = {"threads": threads, "verify": verify, "copy": copy}
        self._instance = ctypes.c_void_p()
        self._lock = threading.RLock()  # held while C uses the instance, so that close() waits
        _check_machine(bundle)
        self._library = _Library(bundle.library(), bundle.manifest["prefix"])
        ports = {"input": self.inputs, "output": self.outputs, "state": self.states}
        check_ports(self._library.functions, bundle.manifest["prefix"], self.name, ports)
        flags = (0 if verify else _SKIP_DIGEST) | (_COPY_WEIGHTS if copy else 0)
        options = _Options(_whole(threads, "threads"), flags)
        path = str(bundle.folder).encode()
        instance = ctypes.byref(self._instance)
        self._library.check(self._library.create(path, ctypes.byref(options), instance))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model once.

        Arguments are numpy arrays or anything with `__array_interface__` or `__dlpack__`; nested
        ones are taken apart into `outer.inner`, and None stands for no input. Returns an array, or
        what the model returns. Raises E0520 for wrong names, E0521 for a shape, E0522 for a dtype,
        E0523 for what is no array.
        """
        arrays = bind(self.inputs, args, kwargs)
        results = [empty(port) for port in self.outputs]
        self._do("run", _pointers(arrays), _pointers(results))
        return nest(self.manifest["output_tree"], results)

    def bench(self, *args: Any, runs: int = 100, **kwargs: Any) -> NDArray[np.uint64]:
        """Nanoseconds that each of `runs` runs took, measured in C."""
        arrays = bind(self.inputs, args, kwargs)
        results = [empty(port) for port in self.outputs]
        times = np.zeros(_whole(runs, "runs"), dtype=np.uint64)
        pointer = ctypes.c_void_p(times.ctypes.data)
        self._do("bench", _pointers(arrays), _pointers(results), ctypes.c_int(len(times)), pointer)
        return times

    def profile(self, *args: Any, runs: int = 20, **kwargs: Any) -> Profile:
        """Runs `runs` times with a clock around every kernel call."""
        arrays = bind(self.inputs, args, kwargs)
        results = [empty(port) for port in self.outputs]
        pointers = _pointers(arrays), _pointers(results)
        with self._lock:
            self._do("profile_start")
            try:
                for _ in range(_whole(runs, "runs")):
                    self._do("run", *pointers)
            finally:
                self._do("profile_stop")
            return self._read_profile()

    def _read_profile(self) -> Profile:
        library, handle = self._library, self._instance
        count = library.profile_get(handle, None, 0)
        entries = (_Entry * count)()
        library.profile_get(handle, entries, ctypes.c_int(count))
        runs = self.segment_runs()
        calls = [call for part in self.manifest["segments"] for call in part["calls"]]
        return Profile(tuple(map(_kernel_time, entries, calls)), runs)

    def segment_runs(self) -> Mapping[str, int]:
        """How often each segment ran since the artifact was loaded or profiled, by its name."""
        with self._lock:
            self._check_open()
            return {
                segment["name"]: self._library.segment_runs(self._instance, ctypes.c_int(index))
                for index, segment in enumerate(self.manifest["segments"])
            }

    def exit_runs(self) -> Mapping[str, int]:
        """How often calls left by each exit since the artifact was loaded or profiled."""
        with self._lock:
            self._check_open()
            return {
                name: self._library.exit_runs(self._instance, ctypes.c_int(index))
                for index, name in enumerate(self.exits)
            }

    @property
    def parameters(self) -> Mapping[str, float]:
        """Numbers that calls read and `set_parameter` sets, such as thresholds of exits."""
        found = {}
        for name in self._parameters:
            number = ctypes.c_float()
            self._do("get_parameter", name.encode(), ctypes.byref(number))
            found[name] = number.value
        return found

    def set_parameter(self, name: str, value: float) -> None:
        """Sets a parameter for the calls to come; `reset` leaves it alone.

        Raises E0526 when there is none called `name`, E0523 for what is no number.
        """
        if name not in self._parameters:
            known = ", ".join(self._parameters) or "none"
            raise error("E0526", f"{self.name} has no parameter {name!r}; it has {known}")
        self._do("set_parameter", name.encode(), ctypes.c_float(_number(value, name)))

    def set_threads(self, threads: int) -> None:
        """Threads for the calls to come; 0: one for each physical core this process may use."""
        self._do("set_threads", ctypes.c_int(_whole(threads, "threads")))

    def reset(self) -> None:
        """Gives every state that calls change the value it had when the artifact was loaded."""
        self._do("state_reset")

    def state(self, name: str) -> NDArray[Any]:
        """A copy of the state called `name`; raises E0526 when there is none."""
        index = self._state_index(name)
        array = empty(self.states[index])
        self._do("state_get", ctypes.c_int(index), ctypes.c_void_p(array.ctypes.data))
        return array

    def set_state(self, name: str, value: Any) -> None:
        """Replaces the state called `name`; raises E0526, or what a call raises."""
        index = self._state_index(name)
        (array,) = bind((self.states[index],), (value,), {})
        self._do("state_set", ctypes.c_int(index), ctypes.c_void_p(array.ctypes.data))

    def _state_index(self, name: str) -> int:
        names = [state.name for state in self.states]
        if name not in names:
            known = ", ".join(names) or "none"
            raise error("E0526", f"{self.name} has no state {name!r}; its states: {known}")
        return names.index(name)

    def _do(self, function: str, *arguments: Any) -> None:
        with self._lock:
            self._check_open()
            self._library.check(getattr(self._library, function)(self._instance, *arguments))

    def _check_open(self) -> None:
        if self._instance.value is None:
            raise error("E0523", f"{self.name} was closed", help="optc.load(...) again")

    def another(self) -> Artifact:
        """A second instance of the same artifact, with its own buffers and state."""
        return Artifact(self._bundle, **self._arguments)  # type: ignore[arg-type]

    def close(self) -> None:
        """Frees the instance, after the calls that are under way; calls after that raise E0523."""
        with self._lock:
            instance, self._instance = self._instance, ctypes.c_void_p()
            if instance.value is not None:
                self._library.destroy(instance)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_library"):  # not where the load was refused
            self.close()

    def __repr__(self) -> str:
        ports = ", ".join(map(str, self.inputs))
        results = ", ".join(map(str, self.outputs))
        return f"<{self.name}({ports}) -> {results}, for {self.manifest['target']['triple']}>"


def load(
    path: str | Path,
    *,
    threads: int = 0,
    verify: bool = True,
    copy: bool = False,
    cache: Path | None = None,
) -> Artifact:
    """Loads the artifact at `path`, a folder or a `.optc` file.

    `threads` 0 takes one for each physical core this process may use. `verify` checks the digest of
    the weights, `copy` reads them into memory instead of mapping them. A `.optc` file is unpacked
    once into `cache` (default: `~/.cache/optc/artifacts`). Raises E0510 for what is no artifact,
    E0511 for one of a newer optc, E0512 and E0513 for one of another CPU, E0514 for a damaged one,
    E0515 for a library that the system refuses, E0516 and E0517 for one that needs a GPU.
    """
    return Artifact(open_bundle(Path(path), cache), threads=threads, verify=verify, copy=copy)


def _check_machine(bundle: Bundle) -> None:
    triple = str(bundle.manifest["target"]["triple"])
    arch = triple.split("-")[0].lower()
    machine = platform.machine().lower()
    if _ARCHES.get(arch, arch) != _ARCHES.get(machine, machine):
        raise error(
            "E0512",
            f"{bundle.manifest['name']} was compiled for {arch}, this machine is {machine}",
            help="optc compile ... --target host",
        )


def _kernel_time(entry: _Entry, call: Mapping[str, Any]) -> KernelTime:
    label, symbol, segment = entry.label.decode(), entry.symbol.decode(), entry.segment.decode()
    return KernelTime(
        label,
        symbol,
        segment,
        entry.flops,
        entry.bytes,
        entry.calls,
        entry.total_ns,
        entry.fastest_ns,
        call.get("dtype", "f32"),  # artifacts of older versions do not say
        call.get("written", 0),
        call.get("weights", 0),
    )


def _pointers(arrays: Sequence[NDArray[Any]]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(1, len(arrays)))(*(array.ctypes.data for array in arrays))


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or isnan(value):
        raise error("E0523", f"{name} takes a number, got {value!r}")
    return float(value)


def _whole(number: object, name: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 1 << 31:
        raise error("E0523", f"{name} must be a whole number from 0 on, got {number!r}")
    return number


__all__ = ["Artifact", "KernelTime", "OptcError", "Profile", "load"]
