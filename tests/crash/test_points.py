"""`kill -9` at every named point and at random instants, PostgreSQL stopped at once, workers paused past their lease:
nothing acknowledged is lost, the ledger balances.

A smaller round of `scripts/crash`: each point once. `--long`: its `--long`, and the mutants.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.contract.test_jobs.postgres import Postgres
from tests.crash.harness.command import main
from tests.crash.harness.mutants import MUTANTS, copy_with, found_out
from tests.crash.harness.plan import PAUSE_LEASE_SECONDS, SERVER_LEASE_SECONDS
from tests.crash.harness.points import POINTS
from tests.crash.harness.rig import Setting
from tests.crash.harness.runs import Kind, Run, live
from tests.crash.harness.verdict import Totals
from tests.peers import redis
from tests.peers.redis import RedisServer
from tests.peers.seaweed import SeaweedFS

ROOMS = {
    "into the job table": ("edge", "serving", "reader", "lane", "append", "intake", "receipts", "jobs"),
    "out of it": ("forward", "stream", "stow", "sweep", "segment"),
}
RUNS_AT_RANDOM = 5
WHOLE_NODES = 0.1
"""Starting a node anew is most of the time all this takes."""


def judged(runs: list[Run], setting: Setting, tmp_path: Path) -> Totals:
    seed = random.randrange(1 << 30)
    totals = Totals()
    live(tmp_path / "life", setting, runs, random.Random(seed), totals, whole_nodes=WHOLE_NODES)
    print(f"seed {seed}: {totals.line()}")
    assert totals.faults == [], f"seed {seed}"
    assert totals.runs == len(runs)
    return totals


@pytest.mark.timeout(600)
@pytest.mark.parametrize("room", ROOMS)
def test_a_kill_at_each_point(room: str, tmp_path: Path) -> None:
    points: list[Run] = [
        one for one in POINTS if one.name.split(".")[0] in ROOMS[room] and not (one.rows or one.bucket or one.away)
    ]
    assert points
    judged(points, Setting("none"), tmp_path)


@pytest.mark.timeout(600)
def test_kills_at_random_instants(tmp_path: Path) -> None:
    judged([Kind.RANDOM] * RUNS_AT_RANDOM, Setting(), tmp_path)


@pytest.mark.timeout(600)
def test_what_waits_for_a_destination_that_is_away_is_given_to_another(tmp_path: Path) -> None:
    judged([*(one for one in POINTS if one.away), Kind.RANDOM], Setting(away=True), tmp_path)


@pytest.mark.timeout(600)
def test_redis_is_killed_and_rows_are_forgotten(tmp_path: Path, peers: ExitStack) -> None:
    if not Path(redis.PROGRAM).exists():
        pytest.skip("needs Debian's package redis-server")
    server = peers.enter_context(RedisServer(tmp_path / "redis"))
    judged([*(one for one in POINTS if one.rows), Kind.REDIS], Setting("none", "none", redis=server), tmp_path)


@pytest.mark.timeout(600)
def test_postgresql_is_stopped_at_once_and_a_modality_waits_for_object_storage(
    tmp_path: Path, server: Postgres, peers: ExitStack
) -> None:
    bucket = peers.enter_context(SeaweedFS(tmp_path / "seaweed"))
    runs: list[Run] = [*(one for one in POINTS if one.bucket), *[Kind.SERVER] * 5]
    judged(runs, Setting(server=server, bucket=bucket, lease_seconds=SERVER_LEASE_SECONDS), tmp_path)


@pytest.mark.timeout(600)
def test_a_worker_is_paused_past_its_lease(tmp_path: Path, server: Postgres) -> None:
    setting = Setting("none", server=server, second=True, lease_seconds=PAUSE_LEASE_SECONDS)
    totals = judged([Kind.PAUSE] * 3, setting, tmp_path)
    print(totals.pauses_line())
    assert totals.stale == 0
    assert totals.refused > 0


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_whole_suite() -> None:
    assert main(["--long"]) == 0


def test_every_point_is_in_a_room() -> None:
    rooms = [room for several in ROOMS.values() for room in several]
    assert {point.name.split(".")[0] for point in POINTS} == {*rooms, "s3"}
    assert all(point.bucket for point in POINTS if point.name.startswith("s3.")), "tried where there is a bucket"


def test_what_a_kill_at_each_point_leaves_behind_is_written_down() -> None:
    page = (Path(__file__).parents[2] / "docs" / "delivery.md").read_text(encoding="utf-8")
    assert [point.name for point in POINTS if f"`{point.name}`" not in page] == []


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_follow_the_code(name: str, tmp_path: Path) -> None:
    copied = copy_with(MUTANTS[name].edits, tmp_path)
    for edit in MUTANTS[name].edits:
        compile((copied / "relaypacs" / edit.module).read_text(), edit.module, "exec")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_promise_is_found_out(name: str, tmp_path: Path, server: Postgres) -> None:
    assert found_out(name, tmp_path, random.randrange(1 << 30), server) is not None
