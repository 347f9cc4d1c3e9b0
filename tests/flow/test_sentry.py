"""Errors reach Sentry, and nothing of a patient does. What receives them is a stand-in that keeps what it gets."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.dcmtk import storescu
from tests.peers.node import Node, dimse
from tests.peers.ports import free_port, wait_until
from tests.peers.stock import StockScp
from tests.samples import write_ct_series

SECRET = "kEy0123456789abcdef"


class Ingest:
    """Sentry's envelope endpoint, as far as a client sees it."""

    def __init__(self) -> None:
        received = self.received = []  # type: list[bytes]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def dsn(self) -> str:
        return f"http://{SECRET}@127.0.0.1:{self.server.server_port}/42"

    def events(self, name: str) -> list[dict[str, Any]]:
        """What was reported under this event name."""
        found = []
        for envelope in list(self.received):
            for line in envelope.split(b"\n"):
                item = json.loads(line) if line.startswith(b"{") else {}
                if item.get("tags", {}).get("event") == name:
                    found.append(item)
        return found


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    stand_in = Ingest()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()


def test_a_dead_letter_and_a_killed_process_are_reported(
    tmp_path: Path, node: Callable[..., Node], ingest: Ingest
) -> None:
    files = write_ct_series(tmp_path / "series", 2, rows=16, columns=16)
    with StockScp(answer=lambda _: 0x0122) as refuses:
        relay = node(
            destinations=[dimse("refuses", refuses.port, refuses.aet)],
            environment={"SENTRY_DSN": ingest.dsn, "SENTRY_ENVIRONMENT": "staging"},
            sections={"spool": {"max_object_bytes": 1 << 20}},
        )
        storescu(relay.port, files, calling="CT_SECRET")
        wait_until(lambda: len(ingest.events("delivery-failed")) == 2, "two dead letters reported", 30.0)
    event = ingest.events("delivery-failed")[0]
    assert event["environment"] == "staging"
    assert event["release"].startswith("relaypacs@")
    assert event["level"] == "error"
    assert event["tags"]["trace_id"], "the association, as in the log"
    assert event["tags"]["service"] == "relay"
    assert event["extra"]["destination"] == "refuses"

    large = write_ct_series(tmp_path / "large", 1, rows=1024, columns=1024)
    storescu(relay.port, large, calling="CT_SECRET")
    wait_until(lambda: bool(ingest.events("object-refused")), "an object over the limit reported", 30.0)
    hashed = ingest.events("object-refused")[0]["user"]["id"]
    assert len(hashed) == 16
    assert int(hashed, 16)

    relay.kill(relay.pids()[1])
    wait_until(lambda: bool(ingest.events("process-died")), "the killed process reported", 30.0)
    assert ingest.events("process-died")[0]["tags"]["service"] == "supervisor"
    everything = b"".join(ingest.received)
    for canary in (b"CT_SECRET", b"Doe", b"PAT", b"127.0.0.1:", *canaries([*files, *large])):
        assert canary not in everything, canary


def canaries(files: list[Path]) -> list[bytes]:
    """UIDs, names and numbers of the patient, as they stand in the files."""
    import pydicom

    words = set()
    for path in files:
        found = pydicom.dcmread(path)
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID", "AccessionNumber"):
            if value := str(found.get(keyword, "")):
                words.add(value.encode())
    return sorted(words)


def test_a_sentry_that_hangs_or_is_gone_holds_nobody_up(tmp_path: Path, node: Callable[..., Node]) -> None:
    files = write_ct_series(tmp_path / "series", 3, rows=16, columns=16)
    with StockScp(answer=lambda _: 0x0122) as refuses:
        relay = node(
            destinations=[dimse("refuses", refuses.port, refuses.aet)],
            environment={"SENTRY_DSN": f"http://{SECRET}@127.0.0.1:{free_port()}/42"},
        )
        storescu(relay.port, files)
        wait_until(lambda: relay.ledger()["failed"] == 3, "three dead letters", 30.0)
