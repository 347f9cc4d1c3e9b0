"""`kill -9` at random instants, PostgreSQL stopped at once, Redis killed, workers paused past their lease: nothing
acknowledged is lost, the ledger balances.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.contract.test_jobs.postgres import Postgres
from tests.crash.harness.plan import CI, PAUSE_LEASE_SECONDS, SERVER_LEASE_SECONDS
from tests.crash.harness.points import POINTS, Point
from tests.crash.harness.rig import Setting
from tests.crash.harness.runs import Kind, Run
from tests.crash.judging import judged
from tests.peers import redis
from tests.peers.redis import RedisServer
from tests.peers.seaweed import SeaweedFS

RUNS_AT_RANDOM = 10
REDIS_LOSSES = 2


def _each(where: Callable[[Point], bool]) -> list[Point]:
    return [one for one in POINTS if where(one)]


@pytest.mark.timeout(600)
def test_kills_at_random_instants(tmp_path: Path) -> None:
    judged([Kind.RANDOM] * RUNS_AT_RANDOM, Setting(), tmp_path)


@pytest.mark.timeout(600)
def test_what_waits_for_a_destination_that_is_away_is_given_to_another(tmp_path: Path) -> None:
    judged([*_each(lambda one: one.away), Kind.RANDOM], Setting(away=True), tmp_path)


@pytest.mark.timeout(600)
def test_redis_is_killed_and_rows_are_forgotten(tmp_path: Path, peers: ExitStack) -> None:
    if not Path(redis.PROGRAM).exists():
        pytest.skip("needs Debian's package redis-server")
    server = peers.enter_context(RedisServer(tmp_path / "redis"))
    judged(
        [*_each(lambda one: one.rows), *[Kind.REDIS] * REDIS_LOSSES],
        Setting("none", "none", redis=server),
        tmp_path,
    )


@pytest.mark.timeout(600)
def test_postgresql_is_stopped_at_once_and_a_modality_waits_for_object_storage(
    tmp_path: Path, server: Postgres, peers: ExitStack
) -> None:
    bucket = peers.enter_context(SeaweedFS(tmp_path / "seaweed"))
    runs: list[Run] = [*_each(lambda one: one.bucket), *[Kind.SERVER] * CI.server_stops]
    judged(runs, Setting(server=server, bucket=bucket, lease_seconds=SERVER_LEASE_SECONDS), tmp_path)


@pytest.mark.timeout(600)
def test_a_worker_is_paused_past_its_lease(tmp_path: Path, server: Postgres) -> None:
    setting = Setting("none", server=server, second=True, lease_seconds=PAUSE_LEASE_SECONDS)
    totals = judged([Kind.PAUSE] * CI.pauses, setting, tmp_path)
    print(totals.pauses_line())
    assert totals.stale == 0
    assert totals.refused > 0
