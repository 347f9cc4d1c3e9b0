"""What a destination notices of a neighbour that misbehaves: the time from reception to delivery, its p50 and p99.

    scripts/bench neighbours [--quick] [--json] [--rounds N] [--objects N] [--only PART,...] [--dir DIR]

MR objects of 33 KiB come at a steady pace, each for DCMTK's storescp. Three nodes take turns: in one it is the only
destination, in one it has a healthy neighbour, in one a bad one of `tests/unit/forward/badpeers.py`: a stand-in in this
process, with time-outs of 0.5 s, so that it is asked again as often as a node ever does. Times are those of the job
table: the good destination's answer less the object's reception. Ratios are of p99 over all rounds. How much of them is
the machine's own noise is seen from `alone / alone`: the rounds of the first node, odd ones against even ones.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.lib.bench_relays import FolderDestination
from scripts.lib.bench_sender import Association, Order
from tests.peers.node import Node, dicomweb, dimse
from tests.peers.ports import wait_until
from tests.unit.forward.badpeers import DIMSE, WEB
from tests.unit.forward.dimsepeer import DimsePeer
from tests.unit.forward.webpeer import Reply, WebPeer, module

HEALTHY = "a healthy one"
_PACE_SECONDS = 0.02
_TARGET = 1.10
_QUICK = ("hangs before the answer", "aborts between objects", "unknown status", "503", "never answers")
_TIMES = """
SELECT attempt.finished_at - instance.received_at
FROM attempt JOIN delivery ON attempt.delivery_id = delivery.id JOIN instance ON delivery.instance_id = instance.id
WHERE delivery.destination = 'good' AND attempt.outcome = 'delivered' AND instance.id > ?
"""


class Measured:
    """A node with the good destination, and `others` beside it."""

    def __init__(self, folder: Path, others: Sequence[dict[str, Any]]) -> None:
        self._to = FolderDestination("good", folder / "good", tuned=True)
        good = dimse("good", self._to.port, "RELAYPACS", associations=1)
        sections = {"log": {"level": "critical"}, "receive": {"processes": 1}}
        self._node = Node(folder / "node", destinations=[good, *others], sections=sections)

    def __enter__(self) -> Measured:
        self._to.start()
        self._node.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._node.stop()
        self._to.stop()

    def run(self, objects: int, number: int) -> list[float]:
        """Seconds from reception to delivery, of so many objects."""
        with closing(sqlite3.connect(self._node.state_dir / "jobs.sqlite")) as table:
            last = table.execute("SELECT coalesce(max(id), 0) FROM instance").fetchone()[0]
            sender = Association(Order(self._node.port, objects=objects, run=number), 0)
            at = time.monotonic()
            for _ in range(objects):
                sender.one()
                at += _PACE_SECONDS
                time.sleep(max(at - time.monotonic(), 0.0))
            sender.release()
            found: list[float] = []

            def arrived() -> bool:
                found[:] = [row[0] for row in table.execute(_TIMES, (last,))]
                return len(found) >= objects

            wait_until(arrived, "everything to be at the good destination", 60.0, every_seconds=0.2)
        return found


def bad(case: str) -> tuple[AbstractContextManager[Any], Callable[[Any], dict[str, Any]]]:
    """A peer, and the destination it is."""
    waits = {"connect_timeout_seconds": 0.5, "response_timeout_seconds": 0.5}
    if case in DIMSE:
        serve = DIMSE[case][0]
        return DimsePeer(serve), lambda peer: dimse("bad", peer.port, "BAD", **waits)
    answer = (lambda request: Reply(200, module(request.uids))) if case == HEALTHY else WEB[case][0]
    return WebPeer(answer), lambda peer: dicomweb("bad", peer.url, **waits)


def quantile(times: Sequence[float], share: float) -> float:
    """In milliseconds."""
    ordered = sorted(times)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1e3


Rounds = list[list[float]]


def figures(case: str, alone: Rounds, healthy: Rounds, beside: Rounds) -> dict[str, Any]:
    """One line: the quantiles of each node over all rounds, and the ratios of p99."""
    nodes = {"alone": alone, "healthy": healthy, "bad": beside}
    times = {name: [one for some in rounds for one in some] for name, rounds in nodes.items()}
    row: dict[str, Any] = {"case": case, "objects": len(times["bad"])}
    for name, found in times.items():
        row |= {f"{name}_p50_ms": round(quantile(found, 0.5), 1), f"{name}_p99_ms": round(quantile(found, 0.99), 1)}
    worst = quantile(times["bad"], 0.99)
    return row | {
        "p99_to_alone": round(worst / quantile(times["alone"], 0.99), 2),
        "p99_to_healthy": round(worst / quantile(times["healthy"], 0.99), 2),
    }


class Bench:
    """Every case in one folder, beside the two nodes that have none."""

    def __init__(self, folder: Path, *, rounds: int, objects: int) -> None:
        self._folder, self._rounds, self._objects = folder, rounds, objects
        self._number = 0
        self.rows: list[dict[str, Any]] = []
        self._all: tuple[Rounds, Rounds, Rounds] = ([], [], [])

    def cases(self, cases: Sequence[str]) -> None:
        """Each beside the same two nodes."""
        with ExitStack() as stack:
            peer, destination = bad(HEALTHY)
            healthy = [destination(stack.enter_context(peer))]
            others = [
                stack.enter_context(Measured(self._folder / "alone", [])),
                stack.enter_context(Measured(self._folder / "healthy", healthy)),
            ]
            for node in others:
                self._one(node, 50)
            for number, case in enumerate(cases):
                self._case(case, self._folder / f"case-{number}", others)
                shutil.rmtree(self._folder / f"case-{number}", ignore_errors=True)

    def _case(self, case: str, folder: Path, others: Sequence[Measured]) -> None:
        peer, destination = bad(case)
        found: tuple[Rounds, Rounds, Rounds] = ([], [], [])
        with peer as running, Measured(folder, [destination(running)]) as disturbed:
            self._one(disturbed, 50)
            nodes = [*others, disturbed]
            for turn in range(self._rounds):
                # Who comes first changes, so that nobody always follows the same one.
                for place in (0, 1, 2):
                    which = (place + turn) % 3
                    found[which].append(self._one(nodes[which], self._objects))
        row = figures(case, *found)
        self.rows.append(row)
        for every, some in zip(self._all, found, strict=True):
            every.extend(some)
        sys.stderr.write(
            f"{case}: p99 {row['bad_p99_ms']} ms beside it, {row['healthy_p99_ms']} beside a healthy one, "
            f"{row['alone_p99_ms']} alone\n"
        )

    def _one(self, node: Measured, objects: int) -> list[float]:
        self._number += 1
        return node.run(objects, self._number)

    def sums(self) -> list[dict[str, Any]]:
        """All bad peers together, and the first node against itself."""
        alone, healthy, beside = self._all
        return [
            figures("all bad peers", alone, healthy, beside),
            figures("alone / alone", alone[::2], alone[::2], alone[1::2]),
        ]


def table(bench: Bench) -> Iterator[str]:
    """The lines for people."""
    yield f"{'p99 in ms':<34}{'objects':>8}{'alone':>9}{'healthy':>9}{'bad':>9}{'/ alone':>9}{'/ healthy':>11}"
    for row in (*bench.rows, *bench.sums()):
        yield (
            f"{row['case']:<34}{row['objects']:>8}{row['alone_p99_ms']:>9}{row['healthy_p99_ms']:>9}"
            f"{row['bad_p99_ms']:>9}{row['p99_to_alone']:>9}{row['p99_to_healthy']:>11}"
        )
    ratio = bench.sums()[0]["p99_to_alone"]
    mark = "reached" if ratio <= _TARGET else "MISSED"
    yield f"p99 beside all bad peers / alone: {ratio} x   target {_TARGET:g}: {mark}"


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few cases, one round")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=0, help="default 3, quick 2")
    parser.add_argument("--objects", type=int, default=0, help="a round's, default 200, quick 100")
    parser.add_argument("--only", default="", help="cases by parts of their names, with commas between")
    parser.add_argument("--dir", type=Path, default=None, help="folder on the disk to use (default: /var/tmp)")
    given = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that the programs are stopped as after Ctrl-C
        signal.signal(number, _end)
    folder = Path(tempfile.mkdtemp(prefix="bench-neighbours-", dir=given.dir or "/var/tmp"))
    rounds, objects = (2, 100) if given.quick else (3, 200)
    bench = Bench(folder, rounds=given.rounds or rounds, objects=given.objects or objects)
    parts = [part for part in given.only.split(",") if part]
    cases = [one for one in (*DIMSE, *WEB) if not given.quick or one in _QUICK]
    try:
        bench.cases([one for one in cases if not parts or any(part in one for part in parts)])
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what was measured so far follows\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not bench.rows:
        raise SystemExit("no bad peer was measured")
    if given.json:
        sys.stdout.write(json.dumps({"rows": bench.rows, "sums": bench.sums(), "target": _TARGET}) + "\n")
    else:
        sys.stdout.write("\n".join(table(bench)) + "\n")


if __name__ == "__main__":
    main()
