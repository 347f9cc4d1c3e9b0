"""What `scripts/bench receive` measured, and how it compares: runs, rows, ratios and the table for people."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

P99_TARGET = 10.0
"""p99 of the answer with 8 associations, in p50s."""


@dataclass(frozen=True)
class Target:
    """A ratio that is to be reached: our rate in `scenario` over that of `other` (there, or in `elsewhere`)."""

    scenario: str
    other: str
    target: float
    beyond: float = 0.0
    elsewhere: str = ""


@dataclass(frozen=True)
class Run:
    """One run's figures."""

    objects: int
    bytes: int
    seconds: float
    p50: float
    p99: float
    cpu_seconds: float
    peak_bytes: int
    sender_cpu_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Objects per second."""
        return self.objects / self.seconds


@dataclass
class Row:
    """A receiver in a scenario, all rounds."""

    scenario: str
    receiver: str
    runs: list[Run] = field(default_factory=list)

    def median(self, figure: Callable[[Run], float]) -> float:
        """The median round's figure."""
        return statistics.median(map(figure, self.runs))

    def figures(self) -> dict[str, float | str | int]:
        """What is printed."""
        return {
            "scenario": self.scenario,
            "receiver": self.receiver,
            "rounds": len(self.runs),
            "objects": sum(run.objects for run in self.runs),
            "objects_per_second": round(self.median(lambda run: run.rate), 1),
            "megabytes_per_second": round(self.median(lambda run: run.bytes / run.seconds / 1e6), 1),
            "p50_seconds": self.median(lambda run: run.p50),
            "p99_seconds": self.median(lambda run: run.p99),
            "cpu_seconds_per_gib": round(self.median(lambda run: run.cpu_seconds / run.bytes * 2**30), 2),
            "peak_rss_bytes": int(self.median(lambda run: run.peak_bytes)),
            "sender_busy": round(self.median(lambda run: run.sender_cpu_seconds / run.seconds), 2),
        }


def verdicts(rows: Sequence[Row], targets: Sequence[Target], us: str) -> Iterator[dict[str, float | str | bool]]:
    """Each target with what was measured."""
    found = {(row.scenario, row.receiver): row for row in rows}
    for target in targets:
        ours = found.get((target.scenario, us))
        theirs = found.get((target.elsewhere or target.scenario, target.other))
        if ours and theirs:
            ratios = [one.rate / other.rate for one, other in zip(ours.runs, theirs.runs, strict=True)]
            what = f"{target.scenario} / {target.other}" + (f" with {target.elsewhere}" if target.elsewhere else "")
            yield _verdict(what, statistics.median(ratios), target.target, target.beyond, at_least=True)
    eight = found.get(("8 associations x 33 KiB", us))
    if eight:
        ratio = eight.median(lambda run: run.p99 / run.p50)
        yield _verdict("8 associations x 33 KiB: p99 / p50", ratio, P99_TARGET, 0.0, at_least=False)


def _verdict(what: str, ratio: float, target: float, beyond: float, *, at_least: bool) -> dict[str, float | str | bool]:
    reached = ratio >= target if at_least else ratio < target
    return {"what": what, "ratio": round(ratio, 2), "target": target, "beyond": beyond, "reached": reached}


def table(rows: Sequence[Row], judged: Iterable[dict[str, float | str | bool]]) -> Iterator[str]:
    """The lines for people."""
    last = ""
    for row in rows:
        if row.scenario != last:
            last = row.scenario
            yield ""
            yield f"{last:<38}{'objects/s':>10}{'MB/s':>8}{'p50 ms':>9}{'p99 ms':>9}{'CPU s/GiB':>11}{'RSS MiB':>9}"
        one = row.figures()
        yield (
            f"  {row.receiver:<36}{one['objects_per_second']:>10}{one['megabytes_per_second']:>8}"
            f"{float(one['p50_seconds']) * 1e3:>9.2f}{float(one['p99_seconds']) * 1e3:>9.2f}"
            f"{one['cpu_seconds_per_gib']:>11}{int(one['peak_rss_bytes']) / 2**20:>9.1f}"
        )
    yield ""
    for verdict in judged:
        mark = "reached" if verdict["reached"] else "MISSED"
        beyond = f", beyond {verdict['beyond']:g}" if verdict["beyond"] else ""
        yield f"{verdict['what']:<70}{verdict['ratio']:>8} x   target {verdict['target']:g}{beyond}: {mark}"
