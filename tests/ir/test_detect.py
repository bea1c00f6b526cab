"""The machine that optc runs on, as /proc says."""

from __future__ import annotations

import pytest

from optc.ir.targets import detect
from optc.ir.targets.catalogue import BF16, V3, VNNI

CPUINFO = """processor\t: 0
vendor_id\t: {vendor}
cpu family\t: {family}
model\t\t: {model}
model name\t: {name}
flags\t\t: fpu {flags}
"""


@pytest.mark.parametrize(
    ("name", "numbers", "features", "described"),
    [
        ("AMD EPYC", (26, 2), BF16, "AVX-512 with VNNI and bf16"),
        ("Intel(R) Xeon(R) Platinum 8259CL", (6, 85), VNNI, "AVX-512 with VNNI"),
        ("Intel(R) Core(TM) i7-6700", (6, 94), V3, "AVX2"),
    ],
)
def test_a_machine_is_called_what_it_calls_itself(
    name: str,
    numbers: tuple[int, int],
    features: tuple[str, ...],
    described: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family, model = numbers
    flags = " ".join(features)
    text = CPUINFO.format(vendor="x", family=family, model=model, name=name, flags=flags)
    monkeypatch.setattr(detect, "_cpuinfo", lambda: text)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    found = detect.host()
    assert found.description == f"{name} (family {family}, model {model}): {described}"
    assert set(features) <= set(found.features)


def test_a_machine_without_numbers_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = "asimd asimddp"
    monkeypatch.setattr(detect, "_cpuinfo", lambda: f"model name\t: Cortex\nFeatures\t: {flags}\n")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert detect.host().description.startswith("Cortex: ")
