"""One run: send, kill, restart, wait for quiet, judge. A life: several runs on one rig, and a last look at its end."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

from tests.crash.harness.points import BY_NAME, STOPS, Point
from tests.crash.harness.rig import LONG_EVERY, Rig, Setting
from tests.crash.harness.traffic import Traffic
from tests.crash.harness.verdict import Totals, Verdict

REACH_SECONDS = 25.0
"""How long traffic goes on without the point being reached."""
QUIET_SECONDS = 30.0
SWEEP_SECONDS = 25.0
"""How long the sweep may seem to do nothing."""
LEAST_IMAGES, MOST_IMAGES = 16, 1000
WHOLE_NODES = 0.35
"""How many of the kills at a point take the whole node with them."""
STEADY_KILLS = 4
"""After so many deaths of single processes all are killed: the supervisor waits longer with each of them."""


class Kind(StrEnum):
    """A run that is not a kill at a named point."""

    RANDOM = "random"
    SERVER = "server"
    """PostgreSQL is stopped at once and started again (`Setting.server`)."""
    REDIS = "redis"
    """Redis is killed and comes back empty, and meanwhile a process of the node is killed (`Setting.redis`)."""
    PAUSE = "pause"
    """A forwarding process is paused past its leases, while another goes on (`Setting.second`)."""


Run = Point | Kind


class Life:
    """Runs on one rig, which is started with the first and judged with `end`."""

    def __init__(self, rig: Rig, chance: random.Random, totals: Totals, whole_nodes: float = WHOLE_NODES) -> None:
        self.rig, self._chance, self._totals, self._whole_nodes = rig, chance, totals, whole_nodes
        self._verdict = Verdict(rig, totals)
        self._deaths = 0

    def run(self, run: Run) -> None:
        """Do it."""
        if isinstance(run, Point):
            self._named(run)
        elif run is Kind.RANDOM:
            self._at_random()
        elif run is Kind.SERVER:
            self._server_stopped()
        elif run is Kind.REDIS:
            self._redis_lost()
        else:
            self._paused()

    def _named(self, point: Point) -> None:
        """Kill one process at a named point, or with it the whole node."""
        passage = 1 + self._chance.randrange(point.passages)
        when = f"{point.name}:{passage}"
        if point.anew:
            self.rig.kill_all()
        self.rig.arm(point, passage)
        over, traffic = self._start(self.rig.reached)
        if self._reach(when):
            self._deaths += 1
            if self._chance.random() < self._whole_nodes or self._deaths > STEADY_KILLS:
                when += " and all"
                self._kill_all()
        over.append(True)
        self.rig.disarm()
        self._finish(when, traffic)

    def _at_random(self) -> None:
        """Kill a random process, or all, at a random instant, up to three times."""
        instants = [self._chance.random() * 0.6 for _ in range(self._chance.randint(1, 3))]
        killed: list[str] = []
        over, traffic = self._start()
        for instant in instants:
            time.sleep(instant)
            killed.append(self.rig.kill_random(self._chance))
        over.append(True)
        self._finish(f"random {' '.join(killed)}", traffic)

    def _server_stopped(self) -> None:
        """Stop the database server at a random instant: some commits are in doubt."""
        over, traffic = self._start()
        time.sleep(self._chance.random() * 0.5)
        self.rig.crash_server(self._chance.random() * 0.3)
        self._totals.server_stops += 1
        over.append(True)
        self._finish("PostgreSQL stopped", traffic)

    def _redis_lost(self) -> None:
        """Kill Redis, and a process of the node while it is gone."""
        over, traffic = self._start()
        time.sleep(self._chance.random() * 0.3)
        gone = threading.Thread(target=self.rig.lose_redis, args=(0.3 + self._chance.random(),))
        gone.start()
        time.sleep(self._chance.random() * 0.3)
        killed = self.rig.kill_random(self._chance)
        gone.join()
        self._totals.redis_losses += 1
        over.append(True)
        self._finish(f"Redis and {killed} killed", traffic)

    def _paused(self) -> None:
        """Stop a forwarding process at a point until another has taken over what it had claimed; let it go on."""
        rig, chance = self.rig, self._chance
        assert rig.watch is not None
        point = BY_NAME[chance.choice(STOPS)]
        passage = 1 + chance.randrange(point.passages)
        when = f"{point.name}:{passage} paused"
        rig.arm(point, passage, stop=True)
        over, traffic = self._start()
        if self._reach(when):
            self._totals.pauses += 1
            stopped = rig.stopped()
            self._verdict.in_flight += rig.watch.active()
            time.sleep(rig.setting.lease_seconds * (1 + 0.6 * chance.random()))
            rig.go_on(stopped)
        over.append(True)
        rig.disarm()
        self._finish(when, traffic)

    def end(self) -> None:
        """Stop cleanly, start again, and look at everything once more."""
        code = self.rig.node.stop(30)
        if code:
            self._totals.fault(f"end: the node ended with {code}")
        self.rig.node.start(30)
        self._quiet("end", len(self._verdict.acknowledged), None)
        self._wait_tidy()
        self._verdict.check_end()

    def count(self) -> None:
        """Add what is known only at the end of a life to the totals."""
        self._verdict.count()

    def _wait_tidy(self) -> None:
        """Wait as long as the sweep gets on with what is left for it."""
        least, deadline = self._leftover(), time.monotonic() + SWEEP_SECONDS
        while (left := self._leftover()) and time.monotonic() < deadline:
            if left < least:
                least, deadline = left, time.monotonic() + SWEEP_SECONDS
            time.sleep(0.05)

    def _leftover(self) -> int:
        return self.rig.segments() + (len(self.rig.staged_keys()) if self.rig.setting.keep == "none" else 0)

    def _start(self, enough: Callable[[], bool] = lambda: False) -> tuple[list[bool], Traffic]:
        """Traffic that goes on until it is enough or something is put into the list."""
        over: list[bool] = []
        traffic = Traffic(
            self.rig.node.port,
            self._chance,
            least=LEAST_IMAGES,
            most=MOST_IMAGES,
            more=lambda: not over and not enough(),
            seconds=2 * REACH_SECONDS,
            long_every=LONG_EVERY if self.rig.setting.bucket else 0,
        )
        traffic.start()
        return over, traffic

    def _reach(self, when: str) -> bool:
        deadline = time.monotonic() + REACH_SECONDS
        while not self.rig.reached() and time.monotonic() < deadline:
            time.sleep(0.002)
        if not self.rig.reached():
            self._totals.fault(f"{when}: was not reached")
            return False
        return True

    def _kill_all(self) -> None:
        self._deaths = 0
        self.rig.kill_all()

    def _finish(self, when: str, traffic: Traffic) -> None:
        traffic.join()
        totals, verdict = self._totals, self._verdict
        totals.runs += 1
        totals.acknowledged += len(traffic.acknowledged)
        verdict.made |= {uid: image.digest for uid, image in traffic.made.items()}
        verdict.acknowledged |= traffic.acknowledged
        verdict.sent_again += sum(traffic.sent.values()) - len(traffic.made)
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
    setting: Setting,
    runs: Sequence[Run],
    chance: random.Random,
    totals: Totals,
    *,
    package: Path | None = None,
    whole_nodes: float = WHOLE_NODES,
) -> Sequence[Run]:
    """One life with these runs. After a fault it ends; returns the runs that are left."""
    print(f"{folder.name}: {setting}", file=sys.stderr, flush=True)
    with Rig(folder, setting, package=package) as rig:
        life = Life(rig, chance, totals, whole_nodes)
        for number, run in enumerate(runs, 1):
            begun, faults = time.monotonic(), len(totals.faults)
            life.run(run)
            word = "ok" if len(totals.faults) == faults else "FAULTS"
            name, seconds = run.name if isinstance(run, Point) else run.value, time.monotonic() - begun
            print(f"{totals.runs:4} {name:22} {seconds:5.1f} s  {word}", file=sys.stderr, flush=True)
            if len(totals.faults) > faults:
                life.count()
                return runs[number:]
        life.end()
        life.count()
    return []
