"""One run: send, kill, restart, wait for quiet, judge. A life: several runs on one rig, and a last look at its end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.crash.harness.points import Point
from tests.crash.harness.rig import Rig
from tests.crash.harness.traffic import Traffic
from tests.crash.harness.verdict import Totals, Verdict

REACH_SECONDS = 25.0
"""How long traffic goes on without the point being reached."""
QUIET_SECONDS = 30.0
LEAST_IMAGES, MOST_IMAGES = 16, 1000
STEADY_KILLS = 3
"""After so many deaths of single processes all are killed: the supervisor waits longer with each of them."""


class Life:
    """Runs on one rig, which is started with the first and judged with `end`."""

    def __init__(self, rig: Rig, chance: random.Random, totals: Totals) -> None:
        self.rig, self._chance, self._totals = rig, chance, totals
        self._verdict = Verdict(rig, totals)
        self._deaths = 0

    def named(self, point: Point) -> None:
        """Kill one process at a named point, or with it the whole node."""
        rig, chance = self.rig, self._chance
        passage = 1 + chance.randrange(point.passages)
        when = f"{point.name}:{passage}"
        rig.arm(point, passage)
        over: list[bool] = []
        traffic = self._traffic(lambda: not over and not rig.reached())
        traffic.start()
        deadline = time.monotonic() + REACH_SECONDS
        while not rig.reached() and time.monotonic() < deadline:
            time.sleep(0.002)
        if not rig.reached():
            self._totals.fault(f"{when}: was not reached")
        else:
            self._deaths += 1
            if chance.random() < 0.35 or self._deaths > STEADY_KILLS:
                when += " and all"
                self._kill_all()
        over.append(True)
        rig.disarm()
        self._finish(when, traffic)

    def at_random(self) -> None:
        """Kill a random process, or all, at a random instant, up to three times."""
        kills = self._chance.randint(1, 3)
        instants = [self._chance.random() * 0.6 for _ in range(kills)]
        killed: list[str] = []
        traffic = self._traffic(lambda: len(killed) < kills)
        traffic.start()
        for instant in instants:
            time.sleep(instant)
            killed.append(self.rig.kill_random(self._chance))
        self._finish(f"random {' '.join(killed)}", traffic)

    def end(self) -> None:
        """Stop cleanly, start again, and look at everything once more."""
        code = self.rig.node.stop(30)
        if code:
            self._totals.fault(f"end: the node ended with {code}")
        self.rig.node.start(30)
        self._quiet("end", len(self._verdict.acknowledged), None)
        deadline = time.monotonic() + 10
        while (self.rig.segments() or self._leftover()) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._verdict.check_end()

    def count(self) -> None:
        """Add what the recorder got more than once to the totals."""
        self._totals.repeats += self._verdict.repeats()

    def _leftover(self) -> bool:
        return self.rig.keep == "none" and bool(self.rig.staged_files())

    def _traffic(self, more: Callable[[], bool]) -> Traffic:
        return Traffic(
            self.rig.node.port,
            self._chance,
            least=LEAST_IMAGES,
            most=MOST_IMAGES,
            more=more,
            seconds=2 * REACH_SECONDS,
        )

    def _kill_all(self) -> None:
        self._deaths = 0
        self.rig.kill_all()

    def _finish(self, when: str, traffic: Traffic) -> None:
        traffic.join()
        totals, verdict = self._totals, self._verdict
        totals.runs += 1
        totals.acknowledged += len(traffic.acknowledged)
        verdict.made |= traffic.made
        verdict.acknowledged |= traffic.acknowledged
        if left := len(traffic.made) - len(traffic.acknowledged):
            totals.fault(f"{when}: {left} images were never acknowledged; statuses {dict(traffic.statuses)}")
        self._quiet(when, len(traffic.acknowledged), traffic.study)
        verdict.check(when, traffic.acknowledged)

    def _quiet(self, when: str, acknowledged: int, study: str | None) -> None:
        if not self.rig.wait_quiet(acknowledged, study, QUIET_SECONDS):
            ledger = self.rig.jobs.ledger(study=study)
            self._totals.fault(f"{when}: not quiet: {ledger} for {acknowledged} acknowledged")


def live(
    folder: Path,
    keep: str,
    runs: Sequence[Point | None],
    chance: random.Random,
    totals: Totals,
    *,
    package: Path | None = None,
) -> Sequence[Point | None]:
    """One life with these runs; None is a kill at random. After a fault it ends; returns the runs that are left."""
    with Rig(folder, keep=keep, package=package) as rig:
        life = Life(rig, chance, totals)
        for number, point in enumerate(runs, 1):
            begun, faults = time.monotonic(), len(totals.faults)
            if point is None:
                life.at_random()
            else:
                life.named(point)
            word = "ok" if len(totals.faults) == faults else "FAULTS"
            name, seconds = point.name if point else "random", time.monotonic() - begun
            print(f"{totals.runs:4} {name:22} {seconds:5.1f} s  {word}", flush=True)
            if len(totals.faults) > faults:
                life.count()
                return runs[number:]
        life.end()
        life.count()
    return []
