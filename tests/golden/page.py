"""Golden pages: Markdown that documents a pass and is its test.

A page is `tests/golden/<pass>.md`. Each `##` section with an ```` ```optc input ```` block is a
case: that graph goes through the section's ```` ```pipeline ```` block (the page's own pass when
there is none), and ```` ```optc output ```` and ```` ```remarks ```` say what comes out.
Idea: ruff's mdtest; the switch that rewrites: exo's golden fixture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
FENCE = "```"
INPUT, PIPELINE, OUTPUT, REMARKS = "optc input", "pipeline", "optc output", "remarks"
UNCHANGED = "// unchanged\n"


@dataclass(frozen=True)
class Block:
    """A fenced block: what its fence says, its text, and the lines it spans with its fences."""

    info: str
    text: str
    first: int
    last: int


@dataclass(frozen=True)
class Case:
    """One section of a page that is a test."""

    path: Path
    title: str
    line: int
    blocks: tuple[Block, ...]

    def text(self, info: str, default: str = "") -> str:
        """The text of the block with this info string, or `default`."""
        found = self.block(info)
        return found.text if found else default

    def block(self, info: str) -> Block | None:
        """The block whose info string begins like this; raises ValueError for two of them."""
        found = [block for block in self.blocks if block.info.startswith(info)]
        if len(found) > 1:
            raise ValueError(f"{self.path.name}: {self.title}: two blocks are ```{info}")
        return found[0] if found else None

    @property
    def pipeline(self) -> str:
        """What the case runs: its pipeline block, or the page's pass."""
        return self.text(PIPELINE, self.path.stem).strip()

    @property
    def target(self) -> str:
        """The target that the pipeline block names: ```` ```pipeline target=cortex-a76 ````."""
        return self._options.get("target", "x86-64-v3")

    @property
    def samples(self) -> int:
        """How many random samples passes may learn from: ```` ```pipeline samples=40 ````."""
        return int(self._options.get("samples", "0"))

    @property
    def metric(self) -> str | None:
        """What candidates are judged by: ```` ```pipeline samples=40 metric=cosine ````."""
        return self._options.get("metric")

    @property
    def fitted(self) -> bool:
        """Whether weights are left out of the page, as the last bits of fits are a machine's own.

        ```` ```pipeline weights=fitted ````.
        """
        return self._options.get("weights") == "fitted"

    @property
    def _options(self) -> Mapping[str, str]:
        block = self.block(PIPELINE)
        return dict(word.split("=") for word in block.info.split()[1:]) if block else {}


def pages() -> list[Path]:
    """Every golden page."""
    return sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")


def cases(path: Path) -> list[Case]:
    """The cases of a page, in order."""
    lines = path.read_text().splitlines()
    blocks = list(_blocks(lines))
    inside = {line for block in blocks for line in range(block.first, block.last + 1)}
    heads = [n for n, line in enumerate(lines) if line.startswith("#") and n not in inside]
    ends = [*heads[1:], len(lines)]
    found = []
    for head, end in zip(heads, ends, strict=True):
        own = tuple(block for block in blocks if head < block.first < end)
        if any(block.info == INPUT for block in own):
            found.append(Case(path, lines[head].lstrip("# "), head, own))
    return found


def rewrite(case: Case, actual: Mapping[str, str]) -> None:
    """Put the actual texts into the case's blocks; an absent block is added unless it is empty."""
    for info, text in actual.items():
        # Read again: the rewriting of one block moves the lines of the next.
        fresh = next(again for again in cases(case.path) if again.title == case.title)
        lines = case.path.read_text().splitlines()
        body = [f"{FENCE}{info}", *text.splitlines(), FENCE]
        block = fresh.block(info)
        if block is not None:
            lines[block.first : block.last + 1] = body
        elif text:
            end = max(block.last for block in fresh.blocks) + 1
            lines[end:end] = ["", *body]
        case.path.write_text("\n".join(lines) + "\n")


def _blocks(lines: list[str]) -> Iterator[Block]:
    start = None
    for number, line in enumerate(lines):
        if not line.startswith(FENCE):
            continue
        if start is None:
            start = number
        elif line.rstrip() == FENCE:
            text = "".join(f"{inner}\n" for inner in lines[start + 1 : number])
            yield Block(lines[start].removeprefix(FENCE).strip(), text, start, number)
            start = None
