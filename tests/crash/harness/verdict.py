"""What must be true after a crash, when all is quiet: nothing lost, nothing partial, few repeats, books balanced.

Asks the destinations what they have and the job table what it says, and believes neither without the other.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import create_engine, select

from relaypacs.jobs.schema import delivery, instance
from tests.crash.harness.objects import Image
from tests.crash.harness.rig import Rig

VISIBLE = {"queued", "active", "deferred", "failed", "held", "discarded"}


@dataclass
class Totals:
    """Sums over all runs; `faults` are sentences, empty when all went as promised."""

    runs: int = 0
    acknowledged: int = 0
    lost: int = 0
    partial: int = 0
    repeats: int = 0
    imbalance: int = 0
    left_over: int = 0
    """Staged files that no row names any more."""
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The last line of a run of the suite."""
        return (
            f"crash: runs={self.runs} acknowledged={self.acknowledged} lost={self.lost} partial={self.partial} "
            f"repeats={self.repeats} imbalance={self.imbalance}"
        )

    def fault(self, sentence: str) -> None:
        """Something is not as promised."""
        self.faults.append(sentence)
        print(f"FAULT: {sentence}", flush=True)


class Verdict:
    """Judges one life of a rig. `made` is every image ever sent to it, by SOP Instance UID."""

    def __init__(self, rig: Rig, totals: Totals) -> None:
        self._rig, self._totals = rig, totals
        self.made: dict[str, Image] = {}
        self.acknowledged: set[str] = set()
        self._hashed: dict[Path, tuple[int, str]] = {}
        self._engine = create_engine(f"sqlite:///file:{rig.node.state_dir}/jobs.sqlite?mode=ro&uri=true")

    def check(self, when: str, acknowledged: set[str]) -> None:
        """Compare what was made and acknowledged with what arrived and what the job table says."""
        states, tokens, rows = self._deliveries()
        arrived = {"dcmtk": self._dcmtk(), "recorder": self._rig.recorder.arrived()}
        for destination, found in arrived.items():
            self._wrong(f"{when}: {destination}", found)
            for uid in acknowledged - found.keys():
                if states[destination].get(uid, set()) & VISIBLE:
                    self._totals.fault(f"{when}: an image is not at {destination}, visibly: {states[destination][uid]}")
                else:
                    self._totals.lost += 1
                    self._totals.fault(f"{when}: lost: an acknowledged image is not at {destination}")
            for uid, said in states[destination].items():
                if "delivered" in said and uid not in found:
                    self._totals.fault(f"{when}: {destination} never got what the job table calls delivered")
        for uid, digests in arrived["recorder"].items():
            if len(digests) > tokens["recorder"][uid]:
                self._totals.fault(f"{when}: an image arrived {len(digests)} times, claimed {tokens['recorder'][uid]}")
        imbalance = self._rig.jobs.ledger().imbalance
        if imbalance:
            self._totals.imbalance += imbalance
            self._totals.fault(f"{when}: the ledger is out by {imbalance}: {self._rig.jobs.ledger()}")
        allowed = self._rig.leases_ended() + rows["recorder"] - len(states["recorder"])
        if self.repeats() > allowed:
            self._totals.fault(f"{when}: {self.repeats()} repeats, {allowed} were in flight")

    def check_end(self) -> None:
        """At the end of the rig's life, the node started anew: everything once more, staging, and no space held."""
        self.check("end", self.acknowledged)
        known = {image.digest for image in self.made.values()}
        for path in self._rig.staged_files():
            if _digest(path) not in known:
                self._totals.partial += 1
                self._totals.fault("end: a staged file is not what was sent")
        if self._rig.keep == "none" and (left := len(self._rig.staged_files())):
            self._totals.left_over += left
            self._totals.fault(f"end: {left} staged files are left over though nothing was owed or kept")
        if left := self._rig.segments():
            self._totals.fault(f"end: {left} segments are held though nothing in them is needed")

    def repeats(self) -> int:
        """Arrivals at the recorder beyond each image's first."""
        return sum(len(digests) - 1 for digests in self._rig.recorder.arrived().values())

    def _wrong(self, where: str, found: Mapping[str, list[str]]) -> None:
        for uid, digests in found.items():
            image = self.made.get(uid)
            wrong = sum(image is None or digest != image.digest for digest in digests)
            if wrong:
                self._totals.partial += wrong
                self._totals.fault(f"{where}: an image is not byte for byte what was sent")

    def _dcmtk(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in self._rig.scp.files():
            stamp = path.stat().st_mtime_ns
            if self._hashed.get(path, (0, ""))[0] != stamp:
                self._hashed[path] = (stamp, _digest(path))
            found[path.name.partition(".")[2]] = [self._hashed[path][1]]
        return found

    def _deliveries(self) -> tuple[dict[str, dict[str, set[str]]], dict[str, Counter[str]], Counter[str]]:
        """Of each destination: states and sum of claims by image, and the number of deliveries."""
        states: dict[str, dict[str, set[str]]] = {"dcmtk": defaultdict(set), "recorder": defaultdict(set)}
        tokens: dict[str, Counter[str]] = {"dcmtk": Counter(), "recorder": Counter()}
        rows: Counter[str] = Counter()
        with self._engine.begin() as connection:
            for uid, destination, state, token in connection.execute(
                select(
                    instance.c.sop_instance_uid, delivery.c.destination, delivery.c.state, delivery.c.token
                ).join_from(delivery, instance, delivery.c.instance_id == instance.c.id)
            ):
                states[destination][uid].add(str(state))
                tokens[destination][uid] += token
                rows[destination] += 1
        return states, tokens, rows


def _digest(path: Path) -> str:
    """SHA-256 of a Part 10 file's dataset, behind its File Meta (PS3.10 7.1: the group length comes first)."""
    data = path.read_bytes()
    return hashlib.sha256(data[144 + int.from_bytes(data[140:144], "little") :]).hexdigest()
