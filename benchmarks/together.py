"""All four families in one artifact, beside each alone: `python -m benchmarks together`.

    python -m benchmarks together --data FOLDER --prepare   # compile, judge, emulate; resumes
    python -m benchmarks together --data FOLDER             # time what is there, write the table

FOLDER as for `exit_models`. Every variant is compiled within 2 % on the same data; the times are of
one process that calls them in turns with held-out samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import Enum
from pathlib import Path

from benchmarks.emulated import agreement, emulate
from benchmarks.exit_models import MODELS
from benchmarks.variants import (
    Facts,
    Subject,
    Timed,
    Variant,
    is_prepared,
    prepare,
    read_times,
    timed,
    write_times,
)
from optc.ir.targets.detect import host
from optc.ir.targets.find import find_target
from optc.passes.quality import Verdict

RESULTS = Path(__file__).parent / "results" / "together.md"
BUDGET, MEMORY = 0.02, "32MB"
F32 = Variant("f32", budget=BUDGET)
SEEN = "\n## What was seen\n"
MACHINE, SAMPLES = "cortex-a76", 24
WORDS = {Verdict.HELD: "holds", Verdict.BROKEN: "does not hold", Verdict.OPEN: "cannot be told"}


class Precision(Enum):
    """Where narrow numbers come from: everywhere they fit, or where a plan says they pay."""

    INTEGER = "quantize"
    ASSIGNED = "assign-precision"

    @property
    def key(self) -> str:
        """In names of variants."""
        return self.name.lower()


@dataclass(frozen=True)
class Setting:
    """How a model is made small, by family, and how many calls are timed.

    `share` is what exits may spend of the budget, all else before them included, where precision
    comes behind them. Of `precisions` each stands with all the others; the first also for another
    machine; `options` are those of assigning. `memory` is the budget of the family of memory alone,
    `within` that of all families together.
    """

    name: str
    prune: str
    exits: str
    precisions: tuple[Precision, ...]
    memory: str
    calls: int
    share: float = 0.8
    options: str = ""
    within: str = MEMORY

    def narrowed(self, precision: Precision) -> str:
        """The pass, with its options."""
        return precision.value + (self.options if precision is Precision.ASSIGNED else "")

    def whole(self, precision: Precision) -> Variant:
        """All of them in one artifact."""
        exits = self.exits.replace("}", f",share={self.share:g}}}")
        passes = ",".join(filter(None, (self.prune, exits, self.narrowed(precision))))
        return Variant(f"all-{precision.key}", passes, self.within, BUDGET)

    @property
    def families(self) -> Mapping[str, tuple[Variant, ...]]:
        """The variants by family; none of a family that the model has no use for."""
        single = {
            "Pruning": (Variant("prune", self.prune, budget=BUDGET),),
            "Precision": tuple(Variant(p.key, self.narrowed(p), budget=BUDGET) for p in Precision),
            "Early exits": (Variant("exits", self.exits, budget=BUDGET),),
            "Memory": (Variant("memory", "", self.memory, BUDGET),),
        }
        found = {
            family: tuple(item for item in variants if item.passes or item.memory)
            for family, variants in single.items()
        }
        return {**found, "Together": tuple(self.whole(item) for item in self.precisions)}


FEWER = "{probes=4,calls=96}"  # of 8 and 256: models that take the reference long
BOTH = (Precision.INTEGER, Precision.ASSIGNED)
SETTINGS: Mapping[str, Setting] = {
    "fashion": Setting(
        "Fashion-MNIST CNN",
        "prune-channels{ratio=0.3},reconstruct-weights",
        "insert-exits{n=2}",
        (Precision.ASSIGNED,),
        "5MB",
        3000,
    ),
    "reviews": Setting(
        "MiniLM reviews",
        "prune-channels{ratio=0.05},reconstruct-weights",
        "insert-exits{n=2}",
        BOTH,
        "12MB",
        800,
        options=FEWER,
    ),
}


def subject_of(name: str, folder: Path, samples: int = 1 << 20) -> Subject:
    """A model with its own exit heads, and samples that it was not trained on."""
    module, data, output = MODELS[name](folder, True, samples)
    return Subject(SETTINGS[name].name, module, data, f"accuracy@{output}")


def variants_of(way: Setting) -> tuple[Variant, ...]:
    """None of the families, each alone, and all of them."""
    return (F32, *(variant for found in way.families.values() for variant in found))


def elsewhere(name: str) -> Variant:
    """The same for another machine."""
    way = SETTINGS[name]
    return replace(way.whole(way.precisions[0]), key=f"all-{MACHINE}")


HEADS = (
    "passes", "lost, points (95 %)", "budget of 2 points", "weights and code, MB",
    "peak, MB", "counted, MB", "p50, ms", "p99, ms", "mean, ms", "of f32",
)  # fmt: skip


def rows(name: str, folder: Path) -> Iterator[list[str]]:
    """A line for each variant."""
    times = read_times(folder / name)
    for variant in variants_of(SETTINGS[name]):
        if variant.key not in times:
            continue
        facts = Facts.read(folder / name / variant.key / "facts.json")
        yield [str(variant), facts.drop, WORDS[facts.verdict], *numbers(times[variant.key])]


def numbers(time: Timed) -> list[str]:
    """Sizes and times as tables have them."""
    sizes = (f"{value:.3g}" for value in (time.size, time.planned, time.counted))
    times = (f"{value:.3g}" for value in (time.p50, time.p99, time.mean))
    return [*sizes, *times, f"{time.ratio:.2f}"]


COLUMNS = (
    "Every variant is `optc compile MODEL --data SAMPLES --accuracy-drop 2% -p PASSES`; three "
    "tenths of the samples are for passes to learn from, the others say what is lost, paired with "
    "the original's answers. Variants of a model are called in turns in one process, each with the "
    "same held-out samples; `of f32` is of mean times. `peak` is what the manifest says of a "
    "process that runs it, `counted` the most that the system counted (VmHWM) of a C program that "
    "takes no exit."
)


def seen(page: Path) -> str:
    """What a person wrote behind the tables: it stays."""
    _, mark, text = page.read_text().partition(SEEN) if page.exists() else ("", "", "")
    return mark + text


def page(sections: Sequence[str]) -> str:
    """The whole table."""
    machine = host()
    head = (
        f"# All four families in one artifact\n\n{date.today()}, {machine.description}, "
        f"{machine.cores} threads, batch 1: `python -m benchmarks together --data FOLDER "
        f"--prepare`, then without `--prepare`.\n\n{COLUMNS}\n"
    )
    return "\n".join([head, *sections])


def section(name: str, folder: Path) -> str:
    """A model's table, and what qemu said."""
    place, way = folder / name, SETTINGS[name]
    plain = Facts.read(place / F32.key / "facts.json")
    lines = [
        f"## {way.name}\n",
        f"{plain.samples} held-out samples, original {100 * plain.original[0]:.2f} %.\n",
        "| " + " | ".join(HEADS) + " |",
        "|" + "---|" * len(HEADS),
        *("| " + " | ".join(row) + " |" for row in rows(name, folder)),
        "",
        *(ways_out(v, place) for v in way.families["Together"] if is_prepared(v, place)),
        *emulated(elsewhere(name), place),
    ]
    return "\n".join(lines)


def ways_out(variant: Variant, place: Path) -> str:
    """Where calls of the whole left, and what came of its budget of memory."""
    facts = Facts.read(place / variant.key / "facts.json")
    calls = max(1, sum(facts.exits.values()))
    ways = ", ".join(f"{way} {count / calls:.0%}" for way, count in facts.exits.items())
    return f"Ways out of `{variant.passes}`: {ways}. Memory budget {variant.memory}: {facts.fit}.\n"


def emulated(variant: Variant, place: Path) -> Iterator[str]:
    """What is known of the other machine; nothing where it was not tried."""
    if is_prepared(variant, place):
        facts = Facts.read(place / variant.key / "facts.json")
        yield (
            f"For {MACHINE} the same passes lose {facts.drop} points on {facts.samples} held-out "
            f"samples ({facts.ran.partition(':')[0]}): the budget of 2 points "
            f"{WORDS[facts.verdict]}; {facts.fit}. The artifact under qemu beside the reference: "
            f"{agreement(variant, place)}.\n"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, or time and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(SETTINGS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("build/variants"))
    parser.add_argument("--samples", type=int, default=1 << 20, help="fewer, for a trial")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--table", action="store_true", help="write it from the last run's times")
    parser.add_argument("--only", action="append", help="prepare the variants of these keys")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    folder = given.work.absolute()
    sections = []
    for name in given.models:
        way = SETTINGS[name]
        if given.prepare:
            subject = subject_of(name, given.data, given.samples)
            prepared(name, subject, folder / name, given.only)
            continue
        if not given.table:
            subject = subject_of(name, given.data, given.samples)
            there = [v for v in variants_of(way) if is_prepared(v, folder / name)]
            write_times(there, timed(subject, there, folder / name, way.calls), folder / name)
        sections.append(section(name, folder))
        print(sections[-1], flush=True)
    if sections:
        given.results.write_text(page(sections) + seen(given.results))
    return 0


def prepared(name: str, subject: Subject, folder: Path, only: Sequence[str] | None) -> None:
    """Compile what is not there yet."""
    other = elsewhere(name)
    wanted = [v for v in (*variants_of(SETTINGS[name]), other) if not only or v.key in only]
    missing = [variant for variant in wanted if not is_prepared(variant, folder)]
    evidence = subject.evidence(BUDGET) if missing else None
    for variant in missing:
        assert evidence is not None
        if variant == other:
            emulate(subject, evidence, variant, folder, MACHINE, SAMPLES)
            print(agreement(variant, folder))
        else:
            prepare(subject, evidence, variant, folder, find_target("host"))
        said(folder / variant.key)


def said(folder: Path) -> None:
    """Print what a compilation found."""
    facts = Facts.read(folder / "facts.json")
    words = (facts.variant, facts.drop, WORDS[facts.verdict], facts.exits, facts.fit)
    print(*words, f"{facts.seconds:.0f} s", sep=" | ", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
