"""`kill -9` at every named point and at random instants: nothing acknowledged is lost, the ledger balances.

A smaller round of `scripts/crash`: each point once. `--long`: each twenty times, 500 random instants, the mutants.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.crash.harness.mutants import MUTANTS, copy_with, found_out
from tests.crash.harness.points import POINTS, Point
from tests.crash.harness.runs import live
from tests.crash.harness.verdict import Totals

ROOMS = {
    "reception": ("edge", "serving", "reader", "lane"),
    "spool": ("append", "segment"),
    "intake": ("intake", "jobs"),
    "forwarding": ("forward", "stream"),
    "sweep": ("sweep",),
}
RUNS_AT_RANDOM = 6


def judged(runs: list[Point | None], keep: str, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    totals = Totals()
    live(tmp_path / "life", keep, runs, random.Random(seed), totals)
    print(f"seed {seed}: {totals.line()}")
    assert totals.faults == [], f"seed {seed}"
    assert totals.runs == len(runs)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("room", ROOMS)
def test_a_kill_at_each_point(room: str, tmp_path: Path, long_run: bool) -> None:
    points: list[Point | None] = [one for one in POINTS if one.name.split(".")[0] in ROOMS[room]]
    assert points
    for number in range(20 if long_run else 1):
        keep = "7d" if number % 2 and room != "sweep" else "none"
        judged(points, keep, tmp_path / str(number))


@pytest.mark.timeout(3600)
def test_kills_at_random_instants(tmp_path: Path, long_run: bool) -> None:
    for number in range(25 if long_run else 1):
        judged([None] * (20 if long_run else RUNS_AT_RANDOM), "7d" if number % 2 else "none", tmp_path / str(number))


def test_every_point_is_in_a_room() -> None:
    rooms = [room for several in ROOMS.values() for room in several]
    assert {point.name.split(".")[0] for point in POINTS} == set(rooms)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_follow_the_code(name: str, tmp_path: Path) -> None:
    copied = copy_with(MUTANTS[name].edits, tmp_path)
    for edit in MUTANTS[name].edits:
        compile((copied / "relaypacs" / edit.module).read_text(), edit.module, "exec")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_promise_is_found_out(name: str, tmp_path: Path) -> None:
    assert found_out(name, tmp_path, random.randrange(1 << 30)) is not None
