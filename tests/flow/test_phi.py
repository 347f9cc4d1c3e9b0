"""Nothing of a patient leaves a node but to those it is meant for: one node under traffic, with real servers.

Canaries stand in the objects, and in what a destination that quotes them answers. They are looked for in the log at
its finest, metrics, health, error comments, Redis (what is there, and every command sent to it), Sentry's events, and
the bucket's keys and metadata. In the audit trail, which is about studies, for all but UIDs.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pynetdicom import AE

from tests.flow.test_sentry import Ingest
from tests.peers.dcmtk import StoreScp, storescu
from tests.peers.node import Node, dicomweb, dimse
from tests.peers.ports import free_port, wait_until
from tests.peers.raw import AC, Raw
from tests.peers.redis import RedisServer
from tests.peers.seaweed import BUCKET, SeaweedFS
from tests.peers.stock import StockScp
from tests.samples import write_ct_series
from tests.unit.forward.webpeer import Reply, WebPeer

WORDS = ("KANARIENVOGEL", "CANARYID77", "CANARYACC9", "CANARYCLINIC", "CANARYREFERRER", "CANARYSTUDY")
PATIENT = {
    "PatientName": f"{WORDS[0]}^PIEPS",
    "PatientID": WORDS[1],
    "AccessionNumber": WORDS[2],
    "InstitutionName": WORDS[3],
    "ReferringPhysicianName": WORDS[4],
    "StudyDescription": WORDS[5],
}


def _write(folder: Path, count: int, rows: int) -> list[Path]:
    files = write_ct_series(folder, count, seed=folder.name, rows=rows, columns=rows)
    for path in files:
        dataset = pydicom.dcmread(path)
        for keyword, value in PATIENT.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)
    return files


def _uids(files: list[Path]) -> set[str]:
    found = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    return {str(one[keyword].value) for one in found for keyword in ("StudyInstanceUID", "SOPInstanceUID")}


def _error_comments(port: int, files: list[Path]) -> list[str]:
    """What a modality is told of each object."""
    entity = AE("CT_1")
    datasets = [pydicom.dcmread(path) for path in files]
    entity.add_requested_context(datasets[0].SOPClassUID, datasets[0].file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title="RELAYPACS")
    assert association.is_established
    answers = [association.send_c_store(dataset) for dataset in datasets]
    association.release()
    assert {answer.Status for answer in answers} == {0xA700}
    return [str(answer.get("ErrorComment", "")) for answer in answers]


@contextmanager
def _listening(server: RedisServer) -> Iterator[list[str]]:
    """Every command that reaches a Redis."""
    heard: list[str] = []
    command = ["redis-cli", "-p", str(server.port), "MONITOR"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as monitor:
        assert monitor.stdout is not None
        lines = monitor.stdout
        threading.Thread(target=lambda: heard.extend(lines), daemon=True).start()
        wait_until(lambda: bool(heard), "MONITOR", 10.0)
        yield heard
        monitor.terminate()


def _trail(relay: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = relay.cli_json("audit", "--limit", "1000")["rows"]
    return found


def test_no_canary_sings(tmp_path: Path, node: Callable[..., Node], storescp: Callable[..., StoreScp]) -> None:
    archive, ingest = storescp(), Ingest()
    quoting = f"no room for {PATIENT['PatientName']} ({WORDS[1]})".encode()
    with (
        SeaweedFS(tmp_path / "seaweed") as storage,
        RedisServer(tmp_path / "redis") as redis,
        _listening(redis) as heard,
        StockScp(answer=lambda _: 0x0122) as refuses,
        WebPeer(lambda _: Reply(400, quoting, {"Warning": f'299 x "{WORDS[0]}"'})) as web,
    ):
        relay = node(
            destinations=[
                dimse("archive", archive.port, archive.aet),
                dimse("refuses", refuses.port, refuses.aet),
                dicomweb("web", web.url),
                dimse("down", free_port(), "DOWN", retry="5x1h"),
            ],
            callers=[{"ae_title": "CT*"}],
            sections={
                "log": {"level": "debug"},
                "node": {"identifiers": False},
                "redis": {"url": redis.url, "max_associations_per_ae": 50, "timeout_seconds": 2.0},
                "routing": {"study_quiet_seconds": 1.0},
                "spool": {"max_object_bytes": 1 << 20},
                "staging": storage.section(hot_seconds=0.5),
            },
            environment={"SENTRY_DSN": ingest.dsn, **storage.environment()},
        )
        files, large = _write(tmp_path / "study", 4, 64), _write(tmp_path / "large", 2, 1024)
        assert storescu(relay.port, files, calling="CT_1").returncode == 0
        assert storescu(relay.port, files, calling=WORDS[0]).returncode != 0, "a calling AE title is no metric's label"
        comments = _error_comments(relay.port, large)
        with Raw(relay.port) as peer:  # no head that can be read, and a name in it
            assert peer.associate(calling=b"CT_1") == AC
            assert peer.store(b"\xff" * 64 + "".join(WORDS).encode(), sop_instance="1.2.3.99") == 0
            peer.release()
        wait_until(lambda: len(storage.objects()) == 5, "all is staged", 60.0)
        wait_until(lambda: len(ingest.events("delivery-failed")) >= 4, "dead letters are reported", 60.0)
        client = storage.client()
        metadata = [client.head_object(Bucket=BUCKET, Key=key)["Metadata"] for key in storage.objects()]
        places = {
            "metrics": relay.get("/metrics")[1],
            "health": relay.get("/readyz")[1],
            "error comments": "\n".join(comments),
            "Redis": "\n".join([*heard, *redis.everything()]),
            "Sentry": b"\n".join(ingest.received).decode(errors="replace"),
            "keys": "\n".join(storage.objects()),
            "metadata": repr(metadata),
        }
        told_of = {"received", "delivered", "failed", "refused"}
        wait_until(lambda: told_of <= {row["kind"] for row in _trail(relay)}, "it is told", 30.0, every_seconds=1.0)
        trail = _trail(relay)
        relay.stop()
    ingest.server.shutdown()
    log = [line for line in relay.log().splitlines() if f'"user_id": "{WORDS[0]}"' not in line]
    places["log"] = "\n".join(log)
    # The audit trail is about studies, so UIDs are in it; who was refused is called as it called itself.
    told = json.dumps([row for row in trail if row["actor"] != WORDS[0]])
    assert not [canary for canary in WORDS if canary in told]
    uids = _uids([*files, *large])
    for place, text in places.items():
        assert text, place
        for canary in (*WORDS, *uids, "1.2.3.99"):
            assert canary not in text, f"{canary} in {place}"
    assert len(log) > 20
