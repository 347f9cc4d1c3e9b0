"""The whole node: how soon it is ready, what it costs at rest, what a huge object costs it.

    scripts/bench node [--rounds 5] [--idle-seconds 30] [--large-mib 1024] [--quick] [--json]

Memory is PSS (proportional set size), so pages the processes share count once. CPU is user and system time of all
processes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.peers.dcmtk import StoreScp
from tests.peers.node import Node, dimse
from tests.peers.raw import AC, COMMAND, DATA, LAST, Raw, pdu, pdv, store_rq

MIB = 1 << 20
PART_BYTES = 65536 - 6


def status(pid: int, name: str) -> int:
    """An entry of /proc/PID/status, as a number."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


def pss_mib(pid: int) -> float:
    """Proportional set size."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise KeyError("Pss")


def cpu_seconds(pid: int) -> float:
    """User and system time so far, to 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def wake_ups(pid: int) -> int:
    """Context switches of all its threads so far."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if "ctxt_switches" in line:
                total += int(line.split()[1])
    return total


def names(node: Node) -> dict[int, str]:
    """The node's processes by pid."""
    (started,) = node.events("node-started")[-1:]
    return {node.program.pid: "supervisor", **{pid: name for name, pid in started["processes"].items()}}


def start_seconds(folder: Path, rounds: int, make: Callable[[Path], Node]) -> list[float]:
    """From launching `relaypacs serve` to /readyz 200, each with a new state folder."""
    found = []
    for number in range(rounds):
        node = make(folder / f"start-{number}")
        begun = time.perf_counter()
        node.start()
        found.append(time.perf_counter() - begun)
        node.stop()
    return found


def at_rest(node: Node, seconds: float) -> dict[str, dict[str, float]]:
    """PSS, CPU and wake-ups of each process while nothing happens."""
    processes = names(node)
    before = {pid: (cpu_seconds(pid), wake_ups(pid)) for pid in processes}
    time.sleep(seconds)
    return {
        name: {
            "pss_mib": round(pss_mib(pid), 1),
            "cpu_seconds": round(cpu_seconds(pid) - before[pid][0], 2),
            "wake_ups_per_second": round((wake_ups(pid) - before[pid][1]) / seconds, 2),
        }
        for pid, name in processes.items()
    }


def send_large(port: int, size: int, uid: str) -> None:
    """Stream one multi-frame object of `size` bytes without holding it."""
    part = pdu(DATA, pdv(1, 0, bytes(PART_BYTES)))
    with Raw(port, timeout_seconds=600.0) as peer:
        if peer.associate() != AC:
            raise RuntimeError("rejected")
        peer.send(pdu(DATA, pdv(1, COMMAND | LAST, store_rq(sop_instance=uid))))
        for _ in range(size // PART_BYTES):
            peer.send(part)
        peer.send(pdu(DATA, pdv(1, LAST, b"end!")))
        if answered := peer.read_status():
            raise RuntimeError(f"answered {answered:04X}")
        peer.release()


class Peaks(threading.Thread):
    """Samples each process' anonymous memory: what it needs itself, without the kernel's cache of mapped segments."""

    def __init__(self, processes: dict[int, str]) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()
        self.before = {pid: status(pid, "RssAnon") for pid in processes}
        self.peaks = dict(self.before)

    def run(self) -> None:
        while not self._ended.wait(0.02):
            for pid in self.peaks:
                self.peaks[pid] = max(self.peaks[pid], status(pid, "RssAnon"))

    def growth_mib(self) -> dict[int, float]:
        """Stop, and say by how much each process grew at most."""
        self._ended.set()
        self.join()
        return {pid: round((peak - self.before[pid]) / 1024, 1) for pid, peak in self.peaks.items()}


def large(node: Node, size: int) -> dict[str, float]:
    """Peak growth of each process while it takes and relays one huge object, in MiB."""
    processes = names(node)
    received = node.ledger()["received"]
    peaks = Peaks(processes)
    peaks.start()
    send_large(node.port, size, "1.2.826.0.1.3680043.8.498.77")
    node.wait_settled(received + 1, 300)
    return {processes[pid]: grown for pid, grown in peaks.growth_mib().items()}


def report(found: dict[str, object]) -> None:
    """The table for people."""
    start = found["start_seconds"]
    print(f"start to /readyz 200: median {start['median']:.2f} s of {start['rounds']}")  # type: ignore[index]
    print(f"at rest for {found['idle_seconds']:g} s:")
    rest: dict[str, dict[str, float]] = found["at_rest"]  # type: ignore[assignment]
    for name, row in rest.items():
        print(
            f"  {name:<12} PSS {row['pss_mib']:>6.1f} MiB   CPU {row['cpu_seconds']:.2f} s"
            f"   wake-ups {row['wake_ups_per_second']:.2f}/s"
        )
    print(f"  {'all':<12} PSS {sum(row['pss_mib'] for row in rest.values()):>6.1f} MiB")
    print(f"one object of {found['large_mib']} MiB, peak growth of anonymous memory (MiB): {found['large_growth_mib']}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle-seconds", type=float, default=30.0)
    parser.add_argument("--large-mib", type=int, default=1024)
    parser.add_argument("--quick", action="store_true", help="3 rounds, 5 s, 128 MiB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.idle_seconds, options.large_mib = 3, 5.0, 128
    with tempfile.TemporaryDirectory(prefix="relaypacs-bench-") as name, StoreScp(Path(name) / "pacs") as pacs:
        folder = Path(name)

        def make(at: Path) -> Node:
            return Node(at, destinations=[dimse("pacs", pacs.port, pacs.aet)])

        starts = start_seconds(folder, options.rounds, make)
        with make(folder / "node") as node:
            send_large(node.port, MIB, "1.2.826.0.1.3680043.8.498.1")
            node.wait_settled(1)
            time.sleep(12)  # association to the destination released, staged, all quiet
            rest = at_rest(node, options.idle_seconds)
            growth = large(node, options.large_mib * MIB)
    found: dict[str, object] = {
        "start_seconds": {"median": statistics.median(starts), "all": starts, "rounds": len(starts)},
        "idle_seconds": options.idle_seconds,
        "at_rest": rest,
        "large_mib": options.large_mib,
        "large_growth_mib": growth,
    }
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        report(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
