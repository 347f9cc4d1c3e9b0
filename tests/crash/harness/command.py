"""`scripts/crash`: kill a node at every named point and at random instants; what was acknowledged must survive.

The last line is `crash: runs=N acknowledged=N lost=0 partial=0 repeats=N imbalance=0`; exit code 1 with any fault.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.crash.harness.points import BY_NAME, POINTS, Point
from tests.crash.harness.runs import live
from tests.crash.harness.verdict import Totals

RUNS_PER_LIFE = 25
"""After so many the node gets a new folder, in turn with and without keeping what was delivered."""
MOST_FAULTS = 30
"""After so many nothing more is learnt."""


def plan(
    points: Sequence[Point], times: int, at_random: int, chance: random.Random
) -> list[tuple[str, list[Point | None]]]:
    """Lives: what is kept, and the runs."""
    runs: list[Point | None] = [point for point in points for _ in range(times)] + [None] * at_random
    chance.shuffle(runs)
    bare = [run for run in runs if run is not None and run.keep == "none"]
    rest = [run for run in runs if run is None or run.keep != "none"]
    chance.shuffle(bare)
    lives: list[tuple[str, list[Point | None]]] = []
    while bare or rest:
        keep = "7d" if len(lives) % 2 or not rest else "none"
        keep = "none" if bare and not rest else keep
        some: list[Point | None] = []
        if keep == "none":
            some, bare = list(bare[: RUNS_PER_LIFE // 3]), bare[RUNS_PER_LIFE // 3 :]
        taken = RUNS_PER_LIFE - len(some)
        some, rest = some + rest[:taken], rest[taken:]
        chance.shuffle(some)
        lives.append((keep, some))
    return lives


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; 0 when every promise was kept."""
    parser = argparse.ArgumentParser(prog="scripts/crash", description=__doc__)
    parser.add_argument(
        "--point", action="append", metavar="NAME", choices=sorted(BY_NAME), help="only this point (repeatable)"
    )
    parser.add_argument("--times", type=int, default=2, help="how often each point (default 2)")
    parser.add_argument(
        "--random", type=int, default=None, metavar="N", help="kills at random instants (default 20; 0 with --point)"
    )
    parser.add_argument("--long", action="store_true", help="each point 20 times and 500 at random")
    parser.add_argument("--seed", type=int, default=None, help="what a run said it used")
    parser.add_argument("--list", action="store_true", help="name the points and end")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        for point in POINTS:
            print(f"{point.name:22} {point.what}")
        return 0
    times, at_random = (20, 500) if chosen.long else (chosen.times, 20)
    if chosen.random is not None:
        at_random = chosen.random
    elif chosen.point:
        at_random = 0
    points = [BY_NAME[name] for name in chosen.point] if chosen.point else list(POINTS)
    if chosen.random is not None and not chosen.point:
        points = []
    seed = random.randrange(1 << 30) if chosen.seed is None else chosen.seed
    chance = random.Random(seed)
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the node and its peers end too
    totals = Totals()
    folder = Path(tempfile.mkdtemp(prefix="relaypacs-crash-"))
    lives = plan(points, times, at_random, chance)
    for number in itertools.count():
        if not lives or len(totals.faults) > MOST_FAULTS:
            break
        keep, runs = lives.pop(0)
        faults = len(totals.faults)
        left = live(folder / f"life-{number}", keep, runs, chance, totals)
        if left:
            lives.insert(0, (keep, list(left)))
        if len(totals.faults) == faults:
            shutil.rmtree(folder / f"life-{number}", ignore_errors=True)
    if totals.faults:
        print(f"{len(totals.faults)} faults; logs and state are in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    if totals.left_over:
        print(f"{totals.left_over} staged files were left over though nothing was owed or kept")
    print(totals.line())
    return 1 if totals.faults or totals.lost or totals.partial or totals.imbalance else 0


if __name__ == "__main__":
    sys.exit(main())
