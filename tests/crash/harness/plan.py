"""Which runs make up a suite, and on which nodes: lives of a bounded number of runs, the settings taking turns."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

from tests.contract.test_jobs.postgres import Postgres, debian_binaries
from tests.crash.harness.points import Point
from tests.crash.harness.rig import Setting
from tests.crash.harness.runs import Kind, Run
from tests.peers import orthanc, redis, seaweed
from tests.peers.redis import RedisServer
from tests.peers.seaweed import SeaweedFS

RUNS_PER_LIFE = 25
"""After so many the node gets a new folder and another setting."""
SERVER_LEASE_SECONDS = 3.0
"""Where the server is stopped: a claim whose commit is in doubt is nobody's until its lease ends."""
PAUSE_LEASE_SECONDS = 1.0


class Size(NamedTuple):
    """How many runs: of each point, at random instants, with PostgreSQL stopped, Redis killed, a worker paused."""

    times: int
    at_random: int
    server_stops: int
    redis_losses: int
    pauses: int


CI = Size(2, 20, 5, 5, 5)
LONG = Size(20, 500, 100, 100, 200)


class Servers(NamedTuple):
    """The servers that are there; what needs another is left out."""

    postgres: Postgres | None = None
    bucket: SeaweedFS | None = None
    redis: RedisServer | None = None


class Planned(NamedTuple):
    """One life."""

    setting: Setting
    runs: list[Run]


def start_servers(folder: Path, stack: ExitStack) -> Servers:
    """Those whose programs are installed, until `stack` ends."""
    binaries = debian_binaries()
    return Servers(
        stack.enter_context(Postgres(binaries)) if binaries else None,
        stack.enter_context(SeaweedFS(folder / "seaweed")) if seaweed.EXECUTABLE.exists() else None,
        stack.enter_context(RedisServer(folder / "redis")) if Path(redis.PROGRAM).exists() else None,
    )


def plan(points: Sequence[Point], size: Size, servers: Servers, chance: random.Random) -> list[Planned]:
    """The lives, in the order in which they are lived."""
    named = [point for point in points for _ in range(size.times)]
    purging: list[Run] = [point for point in named if point.keep and not point.rows]
    forgetting: list[Run] = [point for point in named if point.rows]
    waited_for: list[Run] = [point for point in named if point.bucket]
    giving: list[Run] = [point for point in named if point.away]
    anywhere: list[Run] = [point for point in named if not (point.keep or point.bucket or point.away)]
    giving += [Kind.RANDOM] * (size.at_random // 10)
    anywhere += [Kind.RANDOM] * (size.at_random - size.at_random // 10)
    chance.shuffle(anywhere)
    if servers.bucket is not None:
        # These go on with others in their lives.
        fit = [place for place, one in enumerate(anywhere) if not (isinstance(one, Point) and one.folder)]
        moved = set(fit[: len(anywhere) // 8])
        waited_for += [one for place, one in enumerate(anywhere) if place in moved]
        anywhere = [one for place, one in enumerate(anywhere) if place not in moved]
        chance.shuffle(waited_for)
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
        on = servers.postgres if number % 4 >= 2 else None
        web = number % 4 == 1 and orthanc.EXECUTABLE.exists()
        lives.append(Planned(Setting(keep, server=on, orthanc=web, lease_seconds=_lease(on)), some))
    for number, some in enumerate(_parted(forgetting)):
        on = servers.postgres if number % 2 else None
        lives.append(Planned(Setting("none", "none", on, lease_seconds=_lease(on)), some))
    for number, some in enumerate(_parted(giving)):
        on = servers.postgres if number % 2 == 0 else None
        lives.append(Planned(Setting(server=on, away=True, lease_seconds=_lease(on)), some))
    for number, some in enumerate(_parted(waited_for if servers.bucket else [])):
        on = servers.postgres if number % 2 == 0 else None
        # What is in a bucket is any node's: leases on it outlive the node, to their end.
        keep = "none" if number % 2 else "7d"
        lives.append(Planned(Setting(keep, server=on, bucket=servers.bucket, lease_seconds=SERVER_LEASE_SECONDS), some))
    for some in _parted([Kind.REDIS] * (size.redis_losses if servers.redis else 0)):
        lives.append(Planned(Setting(redis=servers.redis), some))
    if servers.postgres is not None:
        for some in _parted([Kind.SERVER] * size.server_stops):
            lives.append(Planned(Setting(server=servers.postgres, lease_seconds=SERVER_LEASE_SECONDS), some))
        for number, some in enumerate(_parted([Kind.PAUSE] * size.pauses)):
            setting = Setting("none", server=servers.postgres, second=True, lease_seconds=PAUSE_LEASE_SECONDS)
            if number % 2 and servers.bucket is not None:
                # Without Redis nobody would tell the other node soon that there is something to do.
                setting = replace(setting, keep="7d", bucket=servers.bucket, redis=servers.redis)
            lives.append(Planned(setting, some))
    return lives


def _parted(runs: Sequence[Run]) -> list[list[Run]]:
    return [list(runs[start : start + RUNS_PER_LIFE]) for start in range(0, len(runs), RUNS_PER_LIFE)]


def _lease(server: Postgres | None) -> float:
    return SERVER_LEASE_SECONDS if server else Setting().lease_seconds
