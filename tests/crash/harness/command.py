"""`scripts/crash`: kill a node at every named point and at random instants; what was acknowledged must survive.

The last line is `crash: runs=N acknowledged=N lost=0 partial=0 repeats=N imbalance=0`; exit code 1 with any fault.
Progress goes to standard error.
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
from contextlib import ExitStack
from pathlib import Path

from tests.crash.harness.plan import CI, LONG, Planned, Size, plan, start_servers
from tests.crash.harness.points import BY_NAME, POINTS, Point, places
from tests.crash.harness.runs import live
from tests.crash.harness.verdict import Totals

MOST_FAULTS = 30
"""After so many nothing more is learnt."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; 0 when every promise was kept."""
    chosen = _parser().parse_args(arguments)
    if chosen.list:
        where = places()
        for point in POINTS:
            print(f"{point.name:20} {where.get(point.name, ''):20} {point.what}")
        return 0
    size = _size(chosen)
    points = [BY_NAME[name] for name in chosen.point] if chosen.point else list(POINTS)
    seed = random.randrange(1 << 30) if chosen.seed is None else chosen.seed
    chance = random.Random(seed)
    print(f"seed {seed}", file=sys.stderr, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the node and its peers end too
    totals = Totals()
    folder = Path(tempfile.mkdtemp(prefix="relaypacs-crash-"))
    try:
        _live_all(points, size, folder, chance, totals)
    finally:
        # Also after a signal: what was learnt until then.
        if totals.faults:
            print(f"{len(totals.faults)} faults; logs and state are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        if totals.server_stops:
            print(f"PostgreSQL stopped at once: {totals.server_stops} times")
        if totals.redis_losses:
            print(f"Redis killed: {totals.redis_losses} times")
        if totals.pauses:
            print(totals.pauses_line())
        print(totals.line(), flush=True)
    return 1 if totals.faults or totals.lost or totals.partial or totals.imbalance or totals.stale else 0


def _live_all(points: Sequence[Point], size: Size, folder: Path, chance: random.Random, totals: Totals) -> None:
    with ExitStack() as stack:
        servers = start_servers(folder, stack)
        for name, there in servers._asdict().items():
            if there is None:
                print(f"not here, so not tried: {name}", file=sys.stderr)
        lives = plan(points, size, servers, chance)
        for number in itertools.count():
            if not lives or len(totals.faults) > MOST_FAULTS:
                break
            setting, runs = lives.pop(0)
            faults = len(totals.faults)
            left = live(folder / f"life-{number}", setting, runs, chance, totals)
            if left:
                lives.insert(0, Planned(setting, list(left)))
            if len(totals.faults) == faults:
                shutil.rmtree(folder / f"life-{number}", ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/crash", description=__doc__)
    parser.add_argument(
        "--point", action="append", metavar="NAME", choices=sorted(BY_NAME), help="only this point (repeatable)"
    )
    parser.add_argument("--times", type=int, metavar="N", help="how often each point (2)")
    parser.add_argument("--random", type=int, metavar="N", help="only kills at random instants, so many (20)")
    parser.add_argument("--server", type=int, metavar="N", help="only immediate stops of PostgreSQL, so many (5)")
    parser.add_argument("--redis", type=int, metavar="N", help="only Redis killed, so many times (5)")
    parser.add_argument("--pause", type=int, metavar="N", help="only workers paused past their lease, so many (5)")
    parser.add_argument(
        "--long",
        action="store_true",
        help=f"each point {LONG.times} times, {LONG.at_random} at random, {LONG.server_stops} stops of PostgreSQL, "
        f"{LONG.redis_losses} of Redis, {LONG.pauses} pauses",
    )
    parser.add_argument("--seed", type=int, help="what a run said it used")
    parser.add_argument("--list", action="store_true", help="name the points and where each is reached, and end")
    return parser


def _size(chosen: argparse.Namespace) -> Size:
    """What was asked for: everything, or only the kinds of run that were named."""
    whole = LONG if chosen.long else CI
    named = (chosen.random, chosen.server, chosen.redis, chosen.pause)
    if not chosen.point and all(one is None for one in named):
        return whole._replace(times=whole.times if chosen.times is None else chosen.times)
    times = (whole.times if chosen.times is None else chosen.times) if chosen.point else 0
    return Size(times, *(one or 0 for one in named))


if __name__ == "__main__":
    sys.exit(main())
