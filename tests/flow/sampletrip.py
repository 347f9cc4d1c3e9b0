"""Every sample through a node to three real destinations, and beside it straight to three equal ones.

What arrives through the node must be what arrives without it: a peer's own refusals and rewritings then show as its
own. Used by `test_samples.py`, and by `scripts/lib/interoperability.py`, which writes the table of the documentation.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import TraceRow
from tests.peers.dcmtk import StoreScp
from tests.peers.node import Node, dicomweb, dimse
from tests.peers.orthanc import Orthanc
from tests.peers.stock import SECOND_TIME, send_exactly
from tests.samples import Sample, dataset_of, rounds

# What the samples hold beyond the storage SOP classes of today: palettes, and ultrasound of before 1993.
_MORE_SOP_CLASSES = ["1.2.840.10008.5.1.4.39.1", "1.2.840.10008.5.1.4.1.1.6"]
_PATIENCE_SECONDS = 2.5  # with a destination; some samples are never answered
DESTINATIONS = ("storescp", "orthanc-dimse", "orthanc-web")


@dataclass(frozen=True, slots=True)
class End:
    """How a sample ended at one destination.

    `state` and `reason` are the node's; `through` is the dataset stored there, `direct` the one stored by an equal
    peer that the same file was sent to without the node (None: nothing stored), `answered` what that peer said.
    """

    state: str
    reason: str
    through: bytes | None
    direct: bytes | None
    answered: str


@dataclass(frozen=True, slots=True)
class Trip:
    """A sample, what the node answered to its C-STORE-RQ, and its end at each destination (none if not taken)."""

    sample: Sample
    answered: str
    ends: Mapping[str, End]


class _Peers:
    """One peer of each kind: as destinations of the node, or to be sent to directly."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        # Without Nagle's algorithm: this is about bytes, not about time.
        quick = {"TCP_NODELAY": "1"}
        self.scp = stack.enter_context(StoreScp(folder / "storescp"))
        self.dimse = stack.enter_context(Orthanc(folder / "orthanc-dimse", environment=quick))
        self.web = stack.enter_context(Orthanc(folder / "orthanc-web", environment=quick))

    def take_out(self) -> dict[str, dict[str, bytes]]:
        """What each stores, by SOP Instance UID, and empty them."""
        of_scp = {path.name.partition(".")[2]: dataset_of(path.read_bytes()) for path in self.scp.files()}
        for path in self.scp.files():
            path.unlink()
        found = {"storescp": of_scp}
        for name, peer in (("orthanc-dimse", self.dimse), ("orthanc-web", self.web)):
            found[name] = {uid: dataset_of(file) for uid, file in peer.files().items()}
            peer.clear()
        return found

    def send_directly(self, part: Sequence[Sample]) -> dict[str, list[str]]:
        """Send to each what it is for; the answers by destination name, in order."""
        return {
            "storescp": send_exactly(self.scp.port, part, response_timeout_seconds=_PATIENCE_SECONDS),
            "orthanc-dimse": send_exactly(self.dimse.dicom_port, part, response_timeout_seconds=_PATIENCE_SECONDS),
            "orthanc-web": [_post(self.web.http_port, one) for one in part],
        }


def _post(port: int, one: Sample) -> str:
    """STOW-RS of one file (PS3.18 10.5); the HTTP status."""
    head = b"--part\r\nContent-Type: application/dicom\r\n\r\n"
    headers = {
        "Content-Type": 'multipart/related; type="application/dicom"; boundary=part',
        "Accept": "application/dicom+json",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(
            "POST", "/dicom-web/studies", head + one.path.read_bytes() + b"\r\n--part--\r\n", headers=headers
        )
        return f"HTTP {connection.getresponse().status}"
    finally:
        connection.close()


def travel(folder: Path, chosen: Sequence[Sample], tell: Callable[[str], None] = lambda _: None) -> list[Trip]:
    """Send the samples in rounds without a repeated SOP Instance UID; wait for each round's end; the trips in order.

    The node's retry schedule is short, so that what a destination can't take ends in the dead letter within seconds.
    """
    trips: list[Trip] = []
    with ExitStack() as stack:
        direct = _Peers(folder / "direct", stack)
        through = _Peers(folder / "through", stack)
        brief = {"retry": "1x8s", "response_timeout_seconds": _PATIENCE_SECONDS}
        destinations = [
            dimse("storescp", through.scp.port, through.scp.aet, **brief),
            dimse("orthanc-dimse", through.dimse.dicom_port, through.dimse.aet, **brief),
            dicomweb("orthanc-web", through.web.dicomweb_url, **brief),
        ]
        sections = {"receive": {"private_sop_classes": _MORE_SOP_CLASSES}}
        node = stack.enter_context(Node(folder / "node", destinations=destinations, sections=sections))
        store = JobStore.open(f"sqlite:///{node.state_dir}/jobs.sqlite")
        stack.callback(store.close)
        received = 0
        pool = stack.enter_context(ThreadPoolExecutor(1))
        for number, part in enumerate(rounds(list(chosen)), 1):
            begun = time.monotonic()
            answers = send_exactly(node.port, part)
            sent_directly = pool.submit(direct.send_directly, part)
            received += answers.count("0000") + 2 * answers.count("0000" + SECOND_TIME)
            answers = [answer.removesuffix(SECOND_TIME) for answer in answers]
            node.wait_settled(received, 240.0)
            settled = time.monotonic()
            said = sent_directly.result()
            arrived, stored = through.take_out(), direct.take_out()
            for place, one in enumerate(part):
                ends = {}
                for name in DESTINATIONS if answers[place] == "0000" else ():
                    state, reason = _state(store.trace(one.sop_instance_uid), name)
                    uid = one.sop_instance_uid
                    bytes_there = arrived[name].get(uid), stored[name].get(uid)
                    ends[name] = End(state, reason, *bytes_there, said[name][place].removesuffix(SECOND_TIME))
                why = "" if answers[place] == "0000" else _complaint(node)
                trips.append(Trip(one, answers[place] + why, ends))
            tell(f"round {number}: {len(part)} files settled after {settled - begun:.1f} s")
    return trips


def _complaint(node: Node) -> str:
    """What the node logged last of a reception that did not go well, for the reader of a failed test."""
    said = [line for line in node.events() if line["service"].startswith("receive")]
    said = [line for line in said if line["level"] != "INFO" or line.get("outcome", "released") != "released"]
    return "".join(f"; the node: {line['event']}, {line['message']}" for line in said[-3:])


def _state(rows: Sequence[TraceRow], destination: str) -> tuple[str, str]:
    """State and reason of the latest delivery to `destination` under one SOP Instance UID."""
    deliveries = [one for row in rows for one in row.deliveries if one.destination == destination]
    latest = max(deliveries, key=lambda one: one.queued_at)
    return str(latest.state), latest.reason or ""
