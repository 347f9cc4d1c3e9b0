"""`kill -9` at every named point: nothing acknowledged is lost, the ledger balances.

With `test_instants` about half of what `scripts/crash` does. `--long`: its `--long`, and the mutants.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.contract.test_jobs.postgres import Postgres
from tests.crash.harness.command import main
from tests.crash.harness.mutants import MUTANTS, copy_with, found_out
from tests.crash.harness.points import POINTS
from tests.crash.harness.rig import Setting
from tests.crash.harness.runs import Run
from tests.crash.judging import judged

ROOMS = {
    "into the job table": ("edge", "serving", "reader", "lane", "append", "intake", "receipts", "jobs"),
    "out of it": ("forward", "stream", "stow", "sweep", "segment"),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("room", ROOMS)
def test_a_kill_at_each_point(room: str, tmp_path: Path) -> None:
    points: list[Run] = [
        one for one in POINTS if one.name.split(".")[0] in ROOMS[room] and not (one.rows or one.bucket or one.away)
    ]
    assert points
    judged(points, Setting("none"), tmp_path)


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
