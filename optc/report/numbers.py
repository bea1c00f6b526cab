"""Numbers as people read them: three digits and a unit."""

from __future__ import annotations

SCOPE = 4  # last names of a module path that are shown


def bytes_text(count: float) -> str:
    """`91.2 MB`; powers of 1000, as disks and networks count."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def count_text(count: float) -> str:
    """`22.7 M`, `4.1 G`; plain below 10 000."""
    if abs(count) < 10_000:
        return f"{count:,.0f}".replace(",", " ")
    return _scaled(count, ("", "k", "M", "G", "T"))


def seconds_text(seconds: float) -> str:
    """`12.3 s`, `4.56 ms`, `7.8 µs`."""
    if seconds >= 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{three_digits(seconds / scale)} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def three_digits(number: float) -> str:
    """`4.56`, `45.6`, `456`: never fewer than three digits, never an exponent."""
    size = abs(number)
    return f"{number:.2f}" if size < 10 else f"{number:.1f}" if size < 100 else f"{number:.0f}"


def _scaled(count: float, units: tuple[str, ...]) -> str:
    size, place = float(count), 0
    while abs(size) >= 999.5 and place < len(units) - 1:
        size, place = size / 1000, place + 1
    number = f"{size:.0f}" if place == 0 else three_digits(size)
    return f"{number} {units[place]}".rstrip()


def shape_text(shape: tuple[int, ...], dtype: str) -> str:
    """`1x64xfloat32`; `float32` for a scalar."""
    return "x".join([*map(str, shape), dtype])


def place_text(place: str) -> str:
    """`model.py:52 ...layer.5.dense` for `/home/me/model.py:52 (encoder.layer.5.dense)`."""
    file, _, scope = place.rstrip(")").partition(" (")
    parts = scope.split(".")
    short = "..." + ".".join(parts[-SCOPE:]) if len(parts) > SCOPE else scope
    return f"{file.rpartition('/')[2]} {short}".strip()
