"""What model.c says of a GPU: its kernels, their machine code, and each launch as a line of C."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from optc.backends.aot.names import literal
from optc.backends.aot.nvrtc import DeviceImages
from optc.backends.program import Call, Copy, DeviceCode, Launch, Program, RunSegment

CUBIN, PTX, SOURCE = "model.cubin", "model.ptx", "model.cu"


@dataclass(frozen=True, slots=True)
class Capability:
    """A compute capability, such as 8.0."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def capability(code: DeviceCode) -> Capability:
    """The oldest GPU that takes `code`: `sm_80` is 8.0."""
    digits = code.architecture.removeprefix("sm_")
    return Capability(int(digits[:-1]), int(digits[-1]))


def image_files(images: DeviceImages) -> dict[str, bytes]:
    """What model.c includes when it is compiled; the driver reads PTX as a C string."""
    return {CUBIN: images.cubin, PTX: images.ptx + b"\0"}


def declare_kernels(program: Program, code: DeviceCode, images: DeviceImages) -> list[str]:
    """The kernels by number, and their images."""
    shared = _shared(program)
    return [
        "/* The kernels: model.cu, compiled. */",
        f"enum {{ {', '.join(f'kernel_{symbol}' for symbol in shared) or 'no_kernels'} }};",
        *_kernel_tables(shared),
        *_images(images),
        *_code(code, len(shared), all(isinstance(step, RunSegment) for step in program.flow)),
        "",
    ]


def launch_statements(number: int, call: Call | Copy, addresses: Sequence[str]) -> Iterator[str]:
    """The lines for call `number`, whose operands are at `addresses`: source, target for a copy."""
    yield f"optc_rt_cuda_start(m, {number});"
    match call:
        case Call(launches=launches):
            for launch in launches:
                yield _launch(launch, addresses)
        case Copy(nbytes=nbytes):
            source, target = addresses
            yield f"OPTC_RT_TRY(optc_rt_cuda_move(m, {target}, {source}, {nbytes}u));"
    yield "OPTC_RT_TRY(optc_rt_cuda_stop(m));"


def _launch(launch: Launch, addresses: Sequence[str]) -> str:
    operands = ", ".join(addresses[index] for index in launch.operands) or "0"
    sizes = f"{launch.grid}, {launch.block}, {launch.shared_bytes}"
    return f"OPTC_RT_LAUNCH(m, kernel_{launch.symbol}, {sizes}, {operands});"


def _shared(program: Program) -> dict[str, int]:
    """The most dynamic shared memory that any launch of each kernel asks for, in bytes."""
    most: dict[str, int] = {}
    for segment in program.segments:
        for call in segment.calls:
            for launch in call.launches if isinstance(call, Call) else ():
                most[launch.symbol] = max(most.get(launch.symbol, 0), launch.shared_bytes)
    return dict(sorted(most.items()))


def _kernel_tables(shared: Mapping[str, int]) -> list[str]:
    if not shared:
        return []
    return [
        "static const char *const kernels[] = {",
        *(f"    {literal(symbol)}," for symbol in shared),
        "};",
        f"static const int shared_bytes[] = {{{', '.join(map(str, shared.values()))}}};",
    ]


def _images(images: DeviceImages) -> Iterator[str]:
    digest = hashlib.sha256(images.cubin + images.ptx).hexdigest()
    # A compiler's cache knows the text of a file, not what the assembler reads: the digest does.
    yield f"/* sha256 of both: {digest} */"
    yield '__asm__(".pushsection .rodata\\n"'
    for name, path in (("cubin", CUBIN), ("ptx", PTX)):
        yield f'        ".balign 64\\noptc_{name}:\\n.incbin \\"{path}\\"\\n"'
    yield '        ".popsection");'
    for name in ("cubin", "ptx"):
        yield f'extern const uint8_t {name}[] __asm__("optc_{name}");'


def _code(code: DeviceCode, kernels: int, straight: bool) -> list[str]:
    needed = capability(code)
    fields = {
        "major": str(needed.major),
        "minor": str(needed.minor),
        "cubin": "cubin",
        "ptx": "ptx",
        "kernel_count": str(kernels),
        "straight": str(int(straight)),
    }
    if kernels:
        fields |= {"kernels": "kernels", "shared_bytes": "shared_bytes"}
    rows = [f"    .{name} = {value}," for name, value in fields.items()]
    return ["static const struct optc_rt_gpu_code gpu_code = {", *rows, "};"]
