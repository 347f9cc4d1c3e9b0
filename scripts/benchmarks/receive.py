"""Reception side by side: RelayPACS (durable) beside DCMTK storescp, stock pynetdicom and Orthanc, on the same bytes.

    scripts/bench receive [--quick] [--json] [--rounds N] [--seconds S] [--only NAME,...] [--dir DIR]

Every scenario runs its receivers in turn, round after round, so that a busy machine hurts all of them; figures are the
median round, ratios the median of each round's own. The raw sender is measured against a sink that skips bytes, and
RelayPACS's protocol against a spool that forgets: the two limits. Receivers keep running between rounds; RelayPACS's
full segments are freed for reuse, as in a node whose intake keeps up. p50 and p99 are of the answer after an object's
last byte (of everything, where each object has an association of its own). Peak memory is the sum over processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pynetdicom.presentation import StoragePresentationContexts

from relaypacs.dicom.part10 import file_head
from scripts.lib.bench_figures import Row, Run, Target, table, verdicts
from scripts.lib.bench_folder import spread
from scripts.lib.bench_guard import Guard, end_on_signals
from scripts.lib.bench_receivers import Discard, OrthancPeer, Receiver, Relay, StockAe, StoreScp
from scripts.lib.bench_sender import CLASSES, EXPLICIT, Order, dataset, uid
from tests.peers.dcmtk import DCMSEND, STORESCU

SENDER = Path(__file__).resolve().parents[1] / "lib" / "bench_sender.py"
RELAY, BUFFERED, NODE = "relaypacs", "relaypacs buffered", "relaypacs whole node"
DCMTK, DCMTK_FORK, DCMTK_SHIPPED = "storescp", "storescp --fork", "storescp as shipped"
STOCK, ORTHANC, ORTHANC_SHIPPED = "pynetdicom", "orthanc", "orthanc as shipped"
LIMIT, SINK = "limit: bytes discarded", "limit: the sender"


@dataclass(frozen=True)
class Scenario:
    """Something to send, and to whom."""

    name: str
    receivers: Sequence[str]
    quick: Sequence[str] = ()
    """Receivers in the quick run; none leaves the scenario out."""
    order: Order = field(default_factory=lambda: Order(0))
    program: str = ""
    """Send files with this program as shipped, instead of the raw sender."""
    files: dict[str, int] = field(default_factory=dict)
    """How many files, where it isn't `_FILES`."""


_FILES = 400
_RAW = (RELAY, BUFFERED, NODE, DCMTK, STOCK, ORTHANC, LIMIT, SINK)
_MANY = [
    (str(context.abstract_syntax), [str(one) for one in context.transfer_syntax or ()])
    for context in StoragePresentationContexts
    if context.abstract_syntax != CLASSES["mr"]
][:127]
SCENARIOS = (
    Scenario("1 association x 33 KiB", _RAW, (RELAY, DCMTK, STOCK, LIMIT, SINK), Order(0)),
    Scenario("1 association x 512 KiB", _RAW, (RELAY, DCMTK, STOCK), Order(0, kind="ct", warm=4)),
    Scenario(
        "8 associations x 33 KiB",
        (RELAY, BUFFERED, NODE, DCMTK_FORK, STOCK, ORTHANC, LIMIT, SINK),
        (RELAY, DCMTK_FORK),
        Order(0, associations=8),
    ),
    Scenario("association per object x 33 KiB", _RAW, (RELAY, DCMTK, STOCK), Order(0, per_object=True, warm=3)),
    Scenario(
        "association per object x 128 contexts",
        _RAW,
        (RELAY, DCMTK, STOCK),
        Order(0, per_object=True, contexts=_MANY, warm=3),
    ),
    Scenario("one object of 256 MiB", _RAW, (), Order(0, kind="mf", warm=0, objects=1)),
    Scenario(
        "storescu as shipped x 33 KiB",
        (RELAY, DCMTK_SHIPPED, STOCK, ORTHANC_SHIPPED),
        (RELAY, DCMTK_SHIPPED),
        program="storescu",
        files={DCMTK_SHIPPED: 30, ORTHANC_SHIPPED: 30},
    ),
    Scenario(
        "dcmsend as shipped x 33 KiB",
        (RELAY, DCMTK_SHIPPED, STOCK, ORTHANC_SHIPPED),
        program="dcmsend",
        files={DCMTK_SHIPPED: 30, ORTHANC_SHIPPED: 30},
    ),
)
_WARM_RUNS = 4
"""Before the first round of RelayPACS: each fills more segments than the one before, being faster with those it finds.
A node whose intake keeps up has them all."""
TARGETS = (
    Target("1 association x 33 KiB", STOCK, 10, 12),
    Target("1 association x 33 KiB", DCMTK, 1.3, 1.7),
    Target("1 association x 512 KiB", STOCK, 7, 8),
    Target("1 association x 512 KiB", DCMTK, 1.0, 1.1),
    Target("8 associations x 33 KiB", RELAY, 1.6, elsewhere="1 association x 33 KiB"),
    Target("8 associations x 33 KiB", DCMTK_FORK, 1.3),
    Target("association per object x 33 KiB", STOCK, 5),
    Target("association per object x 128 contexts", STOCK, 5),
    Target("storescu as shipped x 33 KiB", DCMTK_SHIPPED, 50),
)


def raw(receiver: Receiver, order: Order) -> Run:
    """One run of the raw sender."""
    given = {**asdict(order), "port": receiver.port, "called": receiver.called}
    sender = subprocess.Popen([sys.executable, SENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with sender:
        assert sender.stdin is not None
        assert sender.stdout is not None

        def say(line: str, to: IO[str] = sender.stdin) -> None:
            to.write(line + "\n")
            to.flush()

        say(json.dumps(given))
        if sender.stdout.readline() != "ready\n":
            raise SystemExit(f"{receiver.name} was not ready: {receiver.folder}")
        receiver.reset_peak()
        cpu = receiver.cpu_seconds()
        say("go")
        answer = sender.stdout.readline()
        cpu = receiver.cpu_seconds() - cpu
        peak = receiver.peak_bytes()
        say("end")
    if not answer:
        raise SystemExit(f"the sender failed at {receiver.name}")
    figures = json.loads(answer)
    del figures["sender_rss_bytes"]
    return Run(**figures, cpu_seconds=cpu, peak_bytes=peak)


def program(receiver: Receiver, name: str, paths: Sequence[Path]) -> Run:
    """One run of a stock sender as shipped; the time includes its start."""
    command = [STORESCU, "-x="] if name == "storescu" else [DCMSEND]
    receiver.reset_peak()
    cpu, began = receiver.cpu_seconds(), time.perf_counter()
    done = subprocess.run(
        [*command, "-aec", receiver.called, "127.0.0.1", str(receiver.port), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{name} to {receiver.name} failed: {done.stdout}{done.stderr}")
    size = sum(path.stat().st_size for path in paths)
    each = seconds / len(paths)
    return Run(len(paths), size, seconds, each, each, receiver.cpu_seconds() - cpu, receiver.peak_bytes())


def _settle(folder: Path) -> None:
    """Write what is to be written, and wait (briefly) until the disk rests: deleted files may be discarded later."""
    os.sync()
    device = f"{os.major(folder.stat().st_dev)}:{os.minor(folder.stat().st_dev)}"
    for _ in range(5):
        before = _transfers(device)
        time.sleep(0.03)
        if _transfers(device) == before:
            return


def _transfers(device: str) -> list[str]:
    for line in Path("/proc/diskstats").read_text().splitlines():
        major, minor, _, *figures = line.split()
        if f"{major}:{minor}" == device:
            return figures
    return []


def make_files(folder: Path, count: int) -> list[Path]:
    """MR images of one series, as Part 10 files."""
    folder.mkdir()
    paths = []
    for number in range(count):
        instance = uid(0, 0, number)
        path = folder / f"{number:05}.dcm"
        head = file_head(CLASSES["mr"], instance, EXPLICIT, source_ae="BENCH")
        path.write_bytes(head + dataset("mr", instance))
        paths.append(path)
    return paths


class Bench:
    """The whole comparison in one folder."""

    def __init__(self, folder: Path, *, rounds: int, seconds: float, quick: bool) -> None:
        self._folder, self._rounds, self._seconds, self._quick = folder, rounds, seconds, quick
        self._guard = Guard(folder)
        self._running: dict[str, Receiver] = {}
        self._stack = ExitStack()
        self._run_number = 0
        self._paths = make_files(folder / "files", _FILES)
        self.rows: list[Row] = []

    def _receiver(self, name: str) -> Receiver:
        if name not in self._running:
            where = self._folder / name.replace(" ", "-").replace(":", "")
            kinds: dict[str, Callable[[], Receiver]] = {
                RELAY: lambda: Relay(name, where),
                BUFFERED: lambda: Relay(name, where, ack="buffered"),
                NODE: lambda: Relay(name, where, whole=True),
                DCMTK: lambda: StoreScp(name, where, tuned=True),
                DCMTK_FORK: lambda: StoreScp(name, where, tuned=True, fork=True),
                DCMTK_SHIPPED: lambda: StoreScp(name, where, tuned=False),
                STOCK: lambda: StockAe(name, where),
                ORTHANC: lambda: OrthancPeer(name, where, tuned=True),
                ORTHANC_SHIPPED: lambda: OrthancPeer(name, where, tuned=False),
                LIMIT: lambda: Discard(name, where, bare=False),
                SINK: lambda: Discard(name, where, bare=True),
            }
            receiver = kinds[name]()
            self._stack.callback(receiver.stop)
            receiver.start(self._guard.watch)
            self._running[name] = receiver
        return self._running[name]

    def scenario(self, scenario: Scenario) -> None:
        """Every round of a scenario."""
        names = scenario.quick if self._quick else scenario.receivers
        rows = {name: Row(scenario.name, name) for name in names}
        self.rows += rows.values()
        for turn in range(self._rounds):
            # Who comes first changes, so that nobody always follows the same one.
            for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
                receiver = self._receiver(name)
                if turn == 0 and name in (RELAY, BUFFERED):
                    for _ in range(_WARM_RUNS):  # they make the segments that are reused
                        self._one(receiver, scenario)
                        receiver.clear()
                _settle(self._folder)  # what the one before left to be written is not paid by this one
                rows[name].runs.append(self._one(receiver, scenario))
                receiver.clear()

    def _one(self, receiver: Receiver, scenario: Scenario) -> Run:
        self._run_number += 1
        if scenario.program:
            count = scenario.files.get(receiver.name, _FILES)
            return program(receiver, scenario.program, self._paths[: count // 4 if self._quick else count])
        order = scenario.order
        return raw(receiver, Order(**{**asdict(order), "seconds": self._seconds, "run": self._run_number}))

    def close(self) -> None:
        """Stop every receiver, and delete what is left."""
        self._stack.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._guard.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="what matters most, in less than a minute")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=0, help="default 5, quick 3")
    parser.add_argument("--seconds", type=float, default=0.0, help="time of a run; default 1.5, quick 0.4")
    parser.add_argument("--only", default="", help="scenarios by parts of their names, with commas between")
    parser.add_argument("--dir", type=Path, default=None, help="folder on the disk to use (default: /var/tmp)")
    given = parser.parse_args()
    end_on_signals()
    folder = spread(Path(tempfile.mkdtemp(prefix="bench-receive-", dir=given.dir or "/var/tmp")))
    bench = Bench(
        folder,
        rounds=given.rounds or (3 if given.quick else 5),
        seconds=given.seconds or (0.4 if given.quick else 1.5),
        quick=given.quick,
    )
    try:
        for scenario in SCENARIOS:
            parts = [part for part in given.only.split(",") if part]
            if (not parts or any(part in scenario.name for part in parts)) and (scenario.quick or not given.quick):
                sys.stderr.write(f"{scenario.name} …\n")
                bench.scenario(scenario)
    finally:
        bench.close()
    judged = list(verdicts(bench.rows, TARGETS, RELAY))
    if given.json:
        sys.stdout.write(json.dumps({"rows": [row.figures() for row in bench.rows], "targets": judged}) + "\n")
    else:
        sys.stdout.write("\n".join(table(bench.rows, judged)) + "\n")


if __name__ == "__main__":
    main()
