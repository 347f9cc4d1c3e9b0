"""The destinations of a rig, and what each of them has: DCMTK's storescp, two that count, and Orthanc's DICOMweb.

`dcmtk` and `orthanc` are real and store each image once, and `orthanc` is asked afterwards for what it has. `recorder`
(C-STORE) and `web` (STOW-RS) are stand-ins that count each arrival. `away` does not answer, ever, and `spare` counts
what it gets in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.crash.harness.counting import CountingPeer
from tests.crash.harness.recorder import Recorder
from tests.crash.harness.web import WebRecorder, split_file
from tests.peers.dcmtk import StoreScp
from tests.peers.node import dicomweb, dimse
from tests.peers.orthanc import Orthanc

ANSWER_SECONDS = 0.004
_SETTINGS = {"retry": "1000x1s", "associations": 2}
_VERIFY = {"verify": "qido", "verify_after_seconds": 1}
_FALLBACK = {"fallback": "spare", "fallback_after_seconds": 1, "fallback_then": "instead"}
Arrived = Mapping[str, list[str]]
"""SOP Instance UID → SHA-256 of the dataset, once per arrival."""


class Destinations:
    """Context manager; `orthanc` adds the real DICOMweb service, `away` one that does not answer, with its fallback."""

    def __init__(self, folder: Path, *, orthanc: bool, away: bool = False) -> None:
        self._scp = StoreScp(folder / "dcmtk")
        self._orthanc = Orthanc(folder / "orthanc") if orthanc else None
        self._recorder = Recorder(delay_seconds=ANSWER_SECONDS)
        self._web = WebRecorder(delay_seconds=ANSWER_SECONDS)
        self._away = Recorder(aet="AWAY") if away else None
        self._spare = Recorder(aet="SPARE", delay_seconds=ANSWER_SECONDS)
        self._counting: dict[str, CountingPeer] = {"recorder": self._recorder, "web": self._web}
        if away:
            self._counting["spare"] = self._spare
        self._peers = ExitStack()
        self._files: dict[Path, tuple[int, str]] = {}
        self._instances: dict[str, str] = {}

    def __enter__(self) -> Destinations:
        with self._peers as peers:
            for peer in (self._scp, *self._counting.values(), self._orthanc):
                if peer is not None:
                    peers.enter_context(peer)
            self._peers = peers.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._peers.close()

    def tables(self) -> list[dict[str, Any]]:
        """Their `[[destination]]`s."""
        tables = [
            dimse("dcmtk", self._scp.port, self._scp.aet, idle_seconds=0.1, **_SETTINGS),
            dimse("recorder", self._recorder.port, self._recorder.aet, idle_seconds=0.1, **_SETTINGS),
            # Small requests, so that a batch is more than one.
            dicomweb("web", self._web.url, max_request_bytes=1 << 20, **_SETTINGS),
        ]
        if self._orthanc is not None:
            tables.append(dicomweb("orthanc", self._orthanc.dicomweb_url, **_VERIFY, **_SETTINGS))
        if self._away is not None:
            tables.append(dimse("away", self._away.port, self._away.aet, **_FALLBACK, **_SETTINGS))
            tables.append(dimse("spare", self._spare.port, self._spare.aet, idle_seconds=0.1, **_SETTINGS))
        return tables

    def wanted(self) -> list[str]:
        """Where rules send everything: what goes to the fallback goes there for want of another."""
        return [table["name"] for table in self.tables() if table["name"] != "spare"]

    @property
    def counting(self) -> tuple[str, ...]:
        """Those that count each arrival."""
        return tuple(self._counting)

    def arrived(self) -> dict[str, Arrived]:
        """What each has, by its name."""
        found: dict[str, Arrived] = {
            "dcmtk": self._from_dcmtk(),
            **{name: peer.arrived() for name, peer in self._counting.items()},
        }
        if self._orthanc is not None:
            found["orthanc"] = self._from_orthanc(self._orthanc)
        return found

    def repeats(self) -> int:
        """Arrivals at those that count, beyond each image's first."""
        counted = [peer.arrived() for peer in self._counting.values()]
        return sum(len(digests) - 1 for arrived in counted for digests in arrived.values())

    def _from_dcmtk(self) -> Arrived:
        found: dict[str, list[str]] = {}
        for path in self._scp.files():
            stamp = path.stat().st_mtime_ns
            if self._files.get(path, (0, ""))[0] != stamp:
                self._files[path] = (stamp, digest_of(path.read_bytes()))
            found[path.name.partition(".")[2]] = [self._files[path][1]]
        return found

    def _from_orthanc(self, orthanc: Orthanc) -> Arrived:
        found: dict[str, list[str]] = {}
        for sop_instance, identifier in orthanc.instances().items():
            if identifier not in self._instances:
                self._instances[identifier] = digest_of(orthanc.file(identifier))
            found[sop_instance] = [self._instances[identifier]]
        return found


def digest_of(file: bytes) -> str:
    """SHA-256 of a Part 10 file's dataset."""
    return hashlib.sha256(split_file(file)[1]).hexdigest()
