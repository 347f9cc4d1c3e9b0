"""Which runs make up a suite, and on which nodes: lives of a bounded number of runs, the settings taking turns."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from tests.contract.test_jobs.postgres import Postgres
from tests.crash.harness.points import Point
from tests.crash.harness.rig import Setting
from tests.crash.harness.runs import Kind, Run
from tests.peers.orthanc import EXECUTABLE

RUNS_PER_LIFE = 25
"""After so many the node gets a new folder and another setting."""
SERVER_LEASE_SECONDS = 3.0
"""Where the server is stopped: a claim whose commit is in doubt is nobody's until its lease ends."""
PAUSE_LEASE_SECONDS = 1.0


class Size(NamedTuple):
    """How many runs: of each point, at random instants, with PostgreSQL stopped, with a worker paused."""

    times: int
    at_random: int
    server_stops: int
    pauses: int


CI = Size(2, 20, 5, 5)
LONG = Size(20, 500, 100, 200)


class Planned(NamedTuple):
    """One life."""

    setting: Setting
    runs: list[Run]


def plan(points: Sequence[Point], size: Size, server: Postgres | None, chance: random.Random) -> list[Planned]:
    """The lives, in the order in which they are lived. Without a `server`, none of the runs that need one."""
    anywhere: list[Run] = [point for point in points for _ in range(size.times) if not point.keep]
    anywhere += [Kind.RANDOM] * size.at_random
    purging: list[Run] = [point for point in points for _ in range(size.times) if point.keep and not point.rows]
    forgetting: list[Run] = [point for point in points for _ in range(size.times) if point.rows]
    chance.shuffle(anywhere)
    lives: list[Planned] = []
    for number in count():
        if not anywhere and not purging:
            break
        keep = "7d" if anywhere and number % 2 else "none"
        some: list[Run] = []
        if keep == "none":
            some, purging = purging[: RUNS_PER_LIFE // 3], purging[RUNS_PER_LIFE // 3 :]
        taken = RUNS_PER_LIFE - len(some)
        some, anywhere = some + anywhere[:taken], anywhere[taken:]
        chance.shuffle(some)
        on = server if number % 4 >= 2 else None
        orthanc = number % 4 == 1 and EXECUTABLE.exists()
        lives.append(Planned(Setting(keep, server=on, orthanc=orthanc, lease_seconds=_lease(on)), some))
    for number, some in enumerate(_parted(forgetting)):
        on = server if number % 2 else None
        lives.append(Planned(Setting("none", "none", on, lease_seconds=_lease(on)), some))
    if server is not None:
        for some in _parted([Kind.SERVER] * size.server_stops):
            lives.append(Planned(Setting(server=server, lease_seconds=SERVER_LEASE_SECONDS), some))
        for number, some in enumerate(_parted([Kind.PAUSE] * size.pauses)):
            keep = "7d" if number % 2 else "none"
            lives.append(Planned(Setting(keep, server=server, second=True, lease_seconds=PAUSE_LEASE_SECONDS), some))
    return lives


def _parted(runs: Sequence[Run]) -> list[list[Run]]:
    return [list(runs[start : start + RUNS_PER_LIFE]) for start in range(0, len(runs), RUNS_PER_LIFE)]


def _lease(server: Postgres | None) -> float:
    return SERVER_LEASE_SECONDS if server else Setting().lease_seconds
