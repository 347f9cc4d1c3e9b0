"""Staging in a real SeaweedFS: puts against a bare boto3 loop, reception with receipts, how fast a full spool drains.

    scripts/bench staging [--rounds 7] [--quick] [--json]

The bare loop is boto3 as its documentation shows it (`put_object` of the same bytes from as many threads, one client):
encrypted, but no SHA-256, no metadata, no precondition. The two take turns. Ratios are what counts; that of processor
time (ours by the bare loop's, of this process alone) moves least on a machine that does other things.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from relaypacs.config.secrets import StorageKeys
from relaypacs.config.stores import Staging
from relaypacs.staging.protocol import StagedFacts
from relaypacs.staging.s3 import S3Staging
from tests.peers.node import Node
from tests.peers.ports import wait_until
from tests.peers.seaweed import BUCKET, KEYS, SeaweedFS

SENDER = Path(__file__).resolve().parents[1] / "lib" / "bench_sender.py"
TARGET = 0.9
SIZES = {"MR 33 KiB": 33 << 10, "CT 512 KiB": 512 << 10}
FACTS = StagedFacts("ab" * 32, "a-1", "MR_1", "RELAYPACS", "10.0.0.7:104", 1790000000.5)


class Rate(NamedTuple):
    """Of one turn."""

    per_second: float
    cpu_seconds: float
    """Each."""


def rate(count: int, threads: int, one: Callable[[int], object]) -> Rate:
    """Of `one(number)`, `threads` at once."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(-threads, 0)))  # connections are made
        begun, cpu = time.perf_counter(), time.process_time()
        list(pool.map(one, range(count)))
        return Rate(count / (time.perf_counter() - begun), (time.process_time() - cpu) / count)


class Puts:
    """Puts of one size, from so many threads."""

    def __init__(self, server: SeaweedFS, folder: Path, size: int, threads: int) -> None:
        self.size, self.threads, self.turn = size, threads, 0
        source = folder / "source"
        source.write_bytes(os.urandom(size))
        self._fd = os.open(source, os.O_RDONLY)
        options = Staging(kind="s3", bucket=BUCKET, endpoint=server.endpoint, puts_at_once=threads)
        self._staging = S3Staging(options, lambda: StorageKeys(*KEYS), scratch=folder)
        self._bare = server.client()

    def ours(self, number: int) -> None:
        """As the stager does it."""
        key = f"relaypacs/{self.size}/{self.threads}/{self.turn}/{number + 1000}.dcm"
        self._staging.put(key, self._fd, 0, self.size, FACTS)

    def bare(self, number: int) -> None:
        """As boto3's documentation does it, encrypted too."""
        key = f"bare/{self.size}/{self.threads}/{self.turn}/{number + 1000}.dcm"
        body = os.pread(self._fd, self.size, 0)
        self._bare.put_object(Bucket=BUCKET, Key=key, Body=body, ServerSideEncryption="AES256")

    def close(self) -> None:
        """Close the source."""
        os.close(self._fd)


def puts(server: SeaweedFS, folder: Path, *, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """Puts a second, ours and the bare loop's, by size and concurrency."""
    results = []
    for name, size in SIZES.items():
        count = (80 if quick else 400) if size < 1 << 18 else (40 if quick else 120)
        for threads in (8,) if quick else (1, 8, 32):
            case = Puts(server, folder, size, threads)
            ours: list[Rate] = []
            theirs: list[Rate] = []
            for case.turn in range(rounds):
                turns = [(ours, case.ours), (theirs, case.bare)]
                for figures, one in turns if case.turn % 2 else reversed(turns):
                    figures.append(rate(count, threads, one))
            case.close()
            per_second = statistics.median(one.per_second for one in ours)
            both = list(zip(ours, theirs, strict=True))
            results.append(
                {
                    "what": name,
                    "threads": threads,
                    "puts_per_second": per_second,
                    "megabytes_per_second": per_second * size / 1e6,
                    "bare_puts_per_second": statistics.median(one.per_second for one in theirs),
                    "ratio": statistics.median(mine.per_second / other.per_second for mine, other in both),
                    "cpu_milliseconds": statistics.median(one.cpu_seconds for one in ours) * 1e3,
                    "cpu_ratio": statistics.median(mine.cpu_seconds / other.cpu_seconds for mine, other in both),
                }
            )
    return results


def receive(server: SeaweedFS, folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Objects a second into a node, whose senders wait until each is in the bucket, or only on the node's disk."""
    results = []
    for ack in ("staged", "spooled"):
        node = Node(
            folder / ack,
            callers=[{"ae_title": "*", "ack": ack}],
            sections={"staging": server.section(), "routing": {"default": []}},
            environment=server.environment(),
        )
        with node:
            for run, associations in enumerate((1, 4) if quick else (1, 4, 16), 1):
                objects = (40 if quick else 160) // associations if ack == "staged" else 400 // associations
                figures = send(node.port, associations, objects, run + 10 * (ack == "staged"))
                results.append(
                    {
                        "ack": ack,
                        "associations": associations,
                        "objects_per_second": figures["objects"] / figures["seconds"],
                        "p50_seconds": figures["p50"],
                        "p99_seconds": figures["p99"],
                    }
                )
    return results


def send(port: int, associations: int, objects: int, run: int) -> dict[str, Any]:
    """What the raw sender measured: MR of 33 KiB."""
    order = {"port": port, "kind": "mr", "associations": associations, "objects": objects, "run": run, "warm": 2}
    sender = subprocess.Popen([sys.executable, SENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert sender.stdin is not None
    assert sender.stdout is not None
    sender.stdin.write(json.dumps(order) + "\n")
    sender.stdin.flush()
    sender.stdout.readline()
    sender.stdin.write("\n")
    sender.stdin.flush()
    figures: dict[str, Any] = json.loads(sender.stdout.readline())
    sender.stdin.write("\n")
    sender.stdin.close()
    sender.wait()
    return figures


def drains(server: SeaweedFS, folder: Path, *, quick: bool) -> dict[str, Any]:
    """How fast a spool that filled while the bucket was away empties into it: median of several, and the slowest."""
    found = sorted(drain(server, folder / f"drain-{turn}", quick=quick) for turn in range(1 if quick else 3))
    objects, megabytes = found[len(found) // 2]
    return {"objects_per_second": objects, "megabytes_per_second": megabytes, "slowest_per_second": found[0][0]}


def drain(server: SeaweedFS, folder: Path, *, quick: bool) -> tuple[float, float]:
    """Objects and megabytes a second of one."""
    with Node(
        folder,
        sections={"staging": server.section(hot_seconds=0.0), "routing": {"default": []}},
        environment=server.environment(),
    ) as node:
        server.stop()
        count = 200 if quick else 1000
        figures = send(node.port, 4, count // 4, 99)
        total = figures["objects"]  # what the sender sent to get warm are the same instances
        wait_until(lambda: node.ledger()["instances"] >= total, "rows", 60)
        server.start()
        # From the first object on: until then the node only waits for its next try.
        wait_until(lambda: staged(node) > 0, "the first object", 60, every_seconds=0.02)
        first, begun = staged(node), time.perf_counter()
        wait_until(lambda: staged(node) >= total, "all of them", 300, every_seconds=0.05)
        seconds = time.perf_counter() - begun
        per_second = (total - first) / seconds
        return per_second, per_second * figures["bytes"] / figures["objects"] / 1e6


def staged(node: Node) -> int:
    """How many objects the node has staged since it started."""
    return int(node.metric("relaypacs_staged_instances_total"))


def main() -> int:
    """Run it; 1 if a ratio is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=0, help="turns of puts; their median is shown (7, quick: 3)")
    parser.add_argument("--quick", action="store_true", help="a short run")
    parser.add_argument("--json", action="store_true", help="figures as one JSON document")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-staging.") as name, SeaweedFS(Path(name) / "weed") as server:
        folder = Path(name)
        figures = {
            "puts": puts(server, folder, quick=given.quick, rounds=given.rounds or (3 if given.quick else 5)),
            "receive": receive(server, folder, quick=given.quick),
            "drain": drains(server, folder, quick=given.quick),
        }
    missed = [one for one in figures["puts"] if one["ratio"] < TARGET]
    if given.json:
        print(json.dumps(figures | {"target": TARGET, "missed": len(missed)}, indent=1))
        return bool(missed)
    for one in figures["puts"]:
        print(
            f"put {one['what']:10} {one['threads']:2} at once: {one['puts_per_second']:6.0f}/s "
            f"{one['megabytes_per_second']:6.1f} MB/s, bare boto3 {one['bare_puts_per_second']:6.0f}/s, "
            f"x {one['ratio']:.2f} (target {TARGET}); CPU {one['cpu_milliseconds']:.2f} ms, x {one['cpu_ratio']:.2f}"
        )
    for one in figures["receive"]:
        print(
            f"receive ack={one['ack']:7} {one['associations']:2} associations: {one['objects_per_second']:6.0f}/s, "
            f"p50 {one['p50_seconds'] * 1e3:.1f} ms, p99 {one['p99_seconds'] * 1e3:.1f} ms"
        )
    one = figures["drain"]
    print(
        f"drain: {one['objects_per_second']:.0f}/s, {one['megabytes_per_second']:.1f} MB/s, "
        f"the slowest {one['slowest_per_second']:.0f}/s"
    )
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
