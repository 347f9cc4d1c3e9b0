"""The whole relay side by side: first byte in to last object at the destination, on the same bytes.

    scripts/bench relay [--quick] [--json] [--rounds N] [--only PART,...] [--dir DIR]

400 CT of 512 KiB or 1000 MR of 33 KiB come by one association from the same raw sender, as fast as they are taken.
Relays: RelayPACS (a node with its defaults: durable, tracked) beside Orthanc routing by Lua, Orthanc storing and then
sending the study, storescp and then dcmsend, a plain relay on pynetdicom, and no relay, the sender at the destination,
than which none is faster; DCMTK and Orthanc with TCP_NODELAY=1 or, on 60 objects, as shipped. Relays take turns within
a round; figures are the median round, ratios the median of each round's own. CPU is of the relay's processes alone,
until they are quiet; memory the sum of each one's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.lib.bench_folder import spread
from scripts.lib.bench_relays import (
    Destination,
    FolderDestination,
    NoRelay,
    OrthancDestination,
    OrthancRelay,
    RelayPacs,
    RelayUnderTest,
    StockRelay,
    StoreThenSend,
)
from scripts.lib.bench_sender import Order, dataset, uid

SENDER = Path(__file__).resolve().parents[1] / "lib" / "bench_sender.py"
RELAY, WEB, HUNG = "relaypacs", "relaypacs by STOW-RS", "relaypacs, another destination hung"
S3, S3_AT_ONCE = "relaypacs, S3 staging", "relaypacs, S3 staging at once"
LUA, LUA_SHIPPED, STUDY = "orthanc lua", "orthanc lua as shipped", "orthanc by study"
SEND, SEND_SHIPPED, STOCK = "storescp + dcmsend", "storescp + dcmsend as shipped", "pynetdicom"
NONE = "no relay"
OBJECTS = {"ct": 400, "mr": 1000}
SHIPPED_OBJECTS = 60
_QUICK_OBJECTS = {"ct": 60, "mr": 100}
_QUICK_SHIPPED = 15
_LONGEST_RUN_SECONDS = 300.0
_QUIET_SECONDS = 0.5


@dataclass(frozen=True)
class Scenario:
    """What is sent, to which destination, through whom."""

    name: str
    kind: str
    to: str
    relays: Sequence[str]
    quick: Sequence[str] = ()
    """Relays in the quick run; none leaves the scenario out."""


_ALL = (RELAY, LUA, STUDY, SEND, STOCK, NONE)
_QUICK = (RELAY, LUA, SEND, STOCK)
SCENARIOS = (
    Scenario("CT to storescp", "ct", "storescp", _ALL, _QUICK),
    Scenario("MR to storescp", "mr", "storescp", _ALL, _QUICK),
    Scenario("CT to storescp as shipped", "ct", "storescp as shipped", (RELAY, LUA_SHIPPED, SEND_SHIPPED)),
    Scenario(
        "MR to storescp as shipped",
        "mr",
        "storescp as shipped",
        (RELAY, LUA_SHIPPED, SEND_SHIPPED),
        (RELAY, LUA_SHIPPED, SEND_SHIPPED),
    ),
    Scenario("CT to a stock Orthanc", "ct", "orthanc as shipped", (RELAY, WEB, SEND_SHIPPED)),
    Scenario("MR to a stock Orthanc", "mr", "orthanc as shipped", (RELAY, WEB, SEND_SHIPPED), (RELAY, WEB)),
    Scenario("MR to storescp, a neighbour hung", "mr", "storescp", (RELAY, HUNG), (RELAY, HUNG)),
    Scenario("CT to storescp, S3 staging", "ct", "storescp", (RELAY, S3, S3_AT_ONCE), (RELAY, S3)),
)
_HUNG = "MR to storescp, a neighbour hung"


@dataclass(frozen=True)
class Target:
    """A ratio that is to be reached: the rate of `ours` over that of `other`."""

    scenario: str
    other: str
    target: float
    beyond: float = 0.0
    ours: str = RELAY


TARGETS = (
    Target("CT to storescp", SEND, 1.3, 2.0),
    Target("MR to storescp", SEND, 1.3, 2.0),
    Target("CT to storescp", LUA, 5.0),
    Target("MR to storescp", LUA, 15.0),
    Target("CT to storescp", STOCK, 10.0),
    Target("MR to storescp", STOCK, 10.0),
    Target("CT to storescp as shipped", LUA_SHIPPED, 30.0),
    Target("MR to storescp as shipped", LUA_SHIPPED, 30.0),
    Target("CT to storescp as shipped", SEND_SHIPPED, 30.0),
    Target("MR to storescp as shipped", SEND_SHIPPED, 30.0),
    Target("CT to a stock Orthanc", SEND_SHIPPED, 8.0),
    Target("MR to a stock Orthanc", SEND_SHIPPED, 8.0),
    Target(_HUNG, RELAY, 0.9, ours=HUNG),
    Target("CT to storescp, S3 staging", RELAY, 0.8, ours=S3),
)


@dataclass(frozen=True)
class Run:
    """One run's figures."""

    objects: int
    bytes: int
    seconds: float
    sent_seconds: float
    """Until the sender had its last answer."""
    cpu_seconds: float
    peak_bytes: int

    @property
    def rate(self) -> float:
        """Objects per second."""
        return self.objects / self.seconds


@dataclass
class Row:
    """A relay in a scenario, all rounds."""

    scenario: str
    relay: str
    runs: list[Run] = field(default_factory=list)

    def median(self, figure: Callable[[Run], float]) -> float:
        """The median round's figure."""
        return statistics.median(map(figure, self.runs))

    def figures(self) -> dict[str, float | str | int]:
        """What is printed."""
        return {
            "scenario": self.scenario,
            "relay": self.relay,
            "rounds": len(self.runs),
            "objects": self.runs[0].objects,
            "seconds": round(self.median(lambda run: run.seconds), 3),
            "sent_seconds": round(self.median(lambda run: run.sent_seconds), 3),
            "objects_per_second": round(self.median(lambda run: run.rate), 1),
            "cpu_seconds_per_gib": round(self.median(lambda run: run.cpu_seconds / run.bytes * 2**30), 2),
            "cpu_milliseconds_per_object": round(self.median(lambda run: run.cpu_seconds / run.objects * 1e3), 3),
            "peak_rss_bytes": int(self.median(lambda run: run.peak_bytes)),
        }


def relay_once(relay: RelayUnderTest, order: Order) -> Run:
    """One study through a relay: the clock starts before its first byte and ends when the destination has it all."""
    least = len(dataset(order.kind, uid(order.run, 0, 0)))
    given = {**asdict(order), "port": relay.port, "called": relay.called}
    sender = subprocess.Popen([sys.executable, SENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert sender.stdin is not None
        assert sender.stdout is not None
        sender.stdin.write(json.dumps(given) + "\n")
        sender.stdin.flush()
        if sender.stdout.readline() != "ready\n":
            raise SystemExit(f"{relay.name} was not ready: {relay.folder}")
        relay.reset_peak()
        cpu = relay.cpu_seconds()
        relay.passing_cpu_seconds, relay.passing_peak_bytes = 0.0, 0
        began = time.perf_counter()
        sender.stdin.write("go\n")
        sender.stdin.flush()
        if not sender.stdout.readline():
            raise SystemExit(f"the sender failed at {relay.name}")
        sent = time.perf_counter()
        relay.pass_on()
        _wait_for(relay.to, order.objects, least, began)
        ended = time.perf_counter()
        sender.stdin.write("end\n")
        sender.stdin.flush()
        sender.wait(30)
    finally:
        with suppress(OSError):
            sender.kill()
        sender.wait()
    time.sleep(_QUIET_SECONDS)
    cpu = relay.cpu_seconds() - cpu + relay.passing_cpu_seconds
    peak = relay.peak_bytes() + relay.passing_peak_bytes
    return Run(order.objects, order.objects * least, ended - began, sent - began, cpu, peak)


def _wait_for(to: Destination, objects: int, least: int, began: float) -> None:
    """Wait until the destination has it all; looks twenty times as seldom as that costs, so as not to be in the way."""
    while True:
        looked = time.perf_counter()
        if to.count() >= objects and to.whole(least) >= objects:
            return
        now = time.perf_counter()
        if now - began > _LONGEST_RUN_SECONDS:
            raise SystemExit(f"{to.name} has {to.whole(least)} of {objects} objects after {_LONGEST_RUN_SECONDS:g} s")
        time.sleep(max(0.002, 20 * (now - looked)))


class Bench:
    """The whole comparison in one folder."""

    def __init__(self, folder: Path, *, rounds: int, quick: bool) -> None:
        self._folder, self._rounds, self._quick = folder, rounds, quick
        self._run_number = 0
        self.rows: list[Row] = []

    def _destination(self, name: str, where: Path) -> Destination:
        tuned = "shipped" not in name
        kind = OrthancDestination if name.startswith("orthanc") else FolderDestination
        return kind(name, where, tuned=tuned)

    def _relay(self, name: str, where: Path, to: Destination) -> RelayUnderTest:
        kinds: dict[str, Callable[[], RelayUnderTest]] = {
            RELAY: lambda: RelayPacs(name, where, to),
            WEB: lambda: RelayPacs(name, where, to, web=True),
            HUNG: lambda: RelayPacs(name, where, to, hung=True),
            S3: lambda: RelayPacs(name, where, to, s3=True),
            S3_AT_ONCE: lambda: RelayPacs(name, where, to, s3=True, at_once=True),
            LUA: lambda: OrthancRelay(name, where, to, tuned=True),
            LUA_SHIPPED: lambda: OrthancRelay(name, where, to, tuned=False),
            STUDY: lambda: OrthancRelay(name, where, to, tuned=True, by_study=True),
            SEND: lambda: StoreThenSend(name, where, to, tuned=True),
            SEND_SHIPPED: lambda: StoreThenSend(name, where, to, tuned=False),
            STOCK: lambda: StockRelay(name, where, to),
            NONE: lambda: NoRelay(name, where, to),
        }
        return kinds[name]()

    def scenario(self, scenario: Scenario) -> None:
        """Every round of a scenario; its programs end with it."""
        names = scenario.quick if self._quick else scenario.relays
        rows = {name: Row(scenario.name, name) for name in names}
        self.rows += rows.values()
        with ExitStack() as stack:
            folder = self._folder / scenario.name.replace(" ", "-").replace(",", "")
            folder.mkdir()
            spread(folder)
            relays = {}
            for number, name in enumerate(names):
                to = self._destination(scenario.to, folder / f"to-{number}")
                stack.callback(to.stop)
                to.start()
                relays[name] = self._relay(name, folder / f"relay-{number}", to)
                stack.callback(relays[name].stop)
                relays[name].start()
            for name in {RELAY, WEB, HUNG, S3, S3_AT_ONCE}.intersection(names):
                self._one(relays[name], scenario.kind)  # makes the segments that are reused
            for turn in range(self._rounds):
                self._clear(relays.values())
                # Who comes first changes, so that nobody always follows the same one.
                for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
                    os.sync()  # what the one before left to be written is not paid by this one
                    run = self._one(relays[name], scenario.kind)
                    rows[name].runs.append(run)
                    progress = f"round {turn + 1} of {self._rounds}: {run.seconds:.2f} s, {run.rate:.0f} objects/s"
                    sys.stderr.write(f"{scenario.name}: {name}, {progress}\n")

    def _one(self, relay: RelayUnderTest, kind: str) -> Run:
        self._run_number += 1
        if "shipped" in relay.name:
            objects = _QUICK_SHIPPED if self._quick else SHIPPED_OBJECTS
        else:
            objects = (_QUICK_OBJECTS if self._quick else OBJECTS)[kind]
        run = relay_once(relay, Order(0, kind=kind, warm=0, objects=objects, run=self._run_number))
        relay.finish()
        return run

    def _clear(self, relays: Iterable[RelayUnderTest]) -> None:
        """Put aside what was relayed, so that nobody pays for the files of the round before."""
        for relay in relays:
            relay.clear()
            relay.to.clear()

    def verdicts(self) -> Iterator[dict[str, float | str | bool]]:
        """Each target with what was measured."""
        found = {(row.scenario, row.relay): row for row in self.rows}
        for target in TARGETS:
            ours = found.get((target.scenario, target.ours))
            theirs = found.get((target.scenario, target.other))
            if ours and theirs and len(ours.runs) == len(theirs.runs) > 0:
                ratio = statistics.median(
                    one.rate / other.rate for one, other in zip(ours.runs, theirs.runs, strict=True)
                )
                yield {
                    "what": f"{target.scenario}: {target.ours} / {target.other}",
                    "ratio": round(ratio, 2),
                    "target": target.target,
                    "beyond": target.beyond,
                    "reached": ratio >= target.target,
                }


def table(bench: Bench) -> Iterator[str]:
    """The lines for people."""
    last = ""
    for row in (row for row in bench.rows if row.runs):
        if row.scenario != last:
            last = row.scenario
            yield ""
            yield (
                f"{last:<38}{'objects':>8}{'seconds':>9}{'sent':>8}{'objects/s':>11}{'CPU s/GiB':>11}"
                f"{'ms/object':>11}{'RSS MiB':>9}"
            )
        one = row.figures()
        yield (
            f"  {row.relay:<36}{one['objects']:>8}{one['seconds']:>9}{one['sent_seconds']:>8}"
            f"{one['objects_per_second']:>11}{one['cpu_seconds_per_gib']:>11}{one['cpu_milliseconds_per_object']:>11}"
            f"{int(one['peak_rss_bytes']) / 2**20:>9.1f}"
        )
    yield ""
    for verdict in bench.verdicts():
        mark = "reached" if verdict["reached"] else "MISSED"
        beyond = f", beyond {verdict['beyond']:g}" if verdict["beyond"] else ""
        yield f"{verdict['what']:<84}{verdict['ratio']:>8} x   target {verdict['target']:g}{beyond}: {mark}"


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller, in less than a minute")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=0, help="default 5, quick 1")
    parser.add_argument("--only", default="", help="scenarios by parts of their names, with commas between")
    parser.add_argument("--dir", type=Path, default=None, help="folder on the disk to use (default: /var/tmp)")
    given = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that the programs are stopped as after Ctrl-C
        signal.signal(number, _end)
    folder = spread(Path(tempfile.mkdtemp(prefix="bench-relay-", dir=given.dir or "/var/tmp")))
    bench = Bench(folder, rounds=given.rounds or (1 if given.quick else 5), quick=given.quick)
    try:
        for scenario in SCENARIOS:
            parts = [part for part in given.only.split(",") if part]
            if (not parts or any(part in scenario.name for part in parts)) and (scenario.quick or not given.quick):
                bench.scenario(scenario)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what was measured so far follows\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if given.json:
        rows = [row.figures() for row in bench.rows if row.runs]
        sys.stdout.write(json.dumps({"rows": rows, "targets": list(bench.verdicts())}) + "\n")
    else:
        sys.stdout.write("\n".join(table(bench)) + "\n")


if __name__ == "__main__":
    main()
