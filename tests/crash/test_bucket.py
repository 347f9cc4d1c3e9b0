"""`kill -9` around a put to a real bucket, and of a node that never returns: nothing the bucket has is lost."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.contract.test_jobs.postgres import Postgres
from tests.peers.dcmtk import StoreScp, storescu
from tests.peers.faulty_s3 import FaultyS3
from tests.peers.node import Node, dimse
from tests.peers.ports import free_port, wait_until
from tests.peers.seaweed import BUCKET, KEYS, SeaweedFS
from tests.samples import dataset_of, read_sample, write_ct_series, write_mr_series

POINTS = {
    "s3.putting": "the object was read and hashed, the request is not sent",
    "s3.part-put": "some parts of a long object are there",
    "s3.put": "the service has it, nobody else knows",
    "sweep.copied": "it is put, no row names it",
    "sweep.staged": "rows name it, its segment is not freed",
    "sweep.freed": "its segment is free, the checkpoint is there",
}
PART = 5 << 20


def kill_relay(relay: Node) -> None:
    """Of the processes below the supervisor, the one that has the hint socket."""
    for pid in relay.pids()[1:]:
        if any("intake.sock" in str(one.laddr) for one in psutil.Process(pid).net_connections("unix")):
            relay.kill(pid)
            return
    raise AssertionError("no relay process")


@pytest.mark.timeout(600)
def test_a_kill_around_a_put(
    tmp_path: Path,
    peers: ExitStack,
    storescp: Callable[..., StoreScp],
    long_run: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MINIO_ACCESS_KEY", KEYS[0])
    monkeypatch.setenv("MINIO_SECRET_KEY", KEYS[1])
    storage = peers.enter_context(SeaweedFS(tmp_path / "seaweed"))
    proxy = peers.enter_context(FaultyS3(storage.s3_port))
    archive = storescp()
    order = tmp_path / "order"
    relay = peers.enter_context(
        Node(
            tmp_path / "node",
            destinations=[dimse("archive", archive.port, archive.aet)],
            sections={
                "staging": storage.section(endpoint=proxy.endpoint, hot_seconds=0.0, part_bytes=PART),
                "spool": {"segment_bytes": 1 << 20},
                "jobs": {"lease_seconds": 3},
            },
            environment={"RELAYPACS_FAILPOINT": f"@{order}"},
        )
    )
    sent: list[Path] = []

    def under(point: str, passage: int) -> None:
        """Send while a kill is ordered at that passage of the point, and wait until all is well again."""
        folder, reached = tmp_path / f"{point}-{passage}", order.with_name("order.reached")
        seed = f"{point}-{passage}"
        if point == "s3.part-put":
            some = write_ct_series(folder, 1, seed=seed, rows=2560, columns=2560)
        else:
            # Enough to fill a segment, where one is to be freed, and to be told to the job table in more than one go.
            some = write_mr_series(folder, 80 if point.startswith("sweep.") else 8, seed=seed)
        sent.extend(some)
        draft = tmp_path / "draft"
        draft.write_text(f"{point}:{passage}")
        draft.rename(order)
        assert storescu(relay.port, some).returncode == 0
        wait_until(reached.exists, f"a kill at {point}", 60)
        reached.unlink()
        wait_until(lambda: len(storage.objects()) == len(sent), f"everything stored after {point}", 90)

    for point, what in POINTS.items():
        for passage in (1, 2) if long_run and point != "sweep.freed" else (1,):
            under(point, passage)
        print(f"killed at {point}: {what}")
    # In the middle of a request: the service gets it whole, the one who asked is dead.
    proxy.fail("slow", "PUT", seconds=2.0)
    more = write_mr_series(tmp_path / "middle", 4, seed="middle")
    sent += more
    before = len(proxy.requests)
    assert storescu(relay.port, more).returncode == 0
    wait_until(lambda: any(one.fault for one in proxy.requests[before:]), "a put on its way", 30, every_seconds=0.01)
    kill_relay(relay)
    proxy.heal()
    wait_until(lambda: len(storage.objects()) == len(sent), "everything stored", 90)
    book = relay.wait_settled(len(sent), 90)
    assert (book["received"], book["delivered"], book["imbalance"]) == (len(sent), len(sent), 0)
    client = storage.client()
    found = []
    for key in storage.objects():
        answer = client.get_object(Bucket=BUCKET, Key=key)
        body = answer["Body"].read()
        assert hashlib.sha256(body).hexdigest() == answer["Metadata"]["sha256"]
        found.append(dataset_of(body))
    assert sorted(found) == sorted(path.read_bytes()[read_sample(path).dataset_offset :] for path in sent)
    wait_until(lambda: relay.cli_json("verify")["good"] == len(sent), "every row names its object", 60)


@pytest.mark.timeout(300)
def test_a_node_that_is_lost_for_good(
    tmp_path: Path, peers: ExitStack, server: Postgres, node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk too. What it had staged, and all that it answered with a receipt, the other delivers; what was only on
    that disk is named, and is delivered when a modality sends it again."""
    monkeypatch.setenv("MINIO_ACCESS_KEY", KEYS[0])
    monkeypatch.setenv("MINIO_SECRET_KEY", KEYS[1])
    monkeypatch.setenv("DATABASE_URL", server.create_database("lost_node").replace("+psycopg", ""))
    monkeypatch.setenv("RELAYPACS_HASH_KEY", "k" * 40)
    storage = peers.enter_context(SeaweedFS(tmp_path / "seaweed"))
    archive = StoreScp(tmp_path / "archive", aet="ARCHIVE")
    archive.port = free_port()

    def of(name: str) -> Node:
        return node(
            name,
            destinations=[dimse("archive", archive.port, archive.aet, retry="1000x1s")],
            callers=[{"ae_title": "STAGED", "ack": "staged"}, {"ae_title": "*"}],
            sections={
                "node": {"name": name},
                "staging": storage.section(hot_seconds=0.0),
                "jobs": {"lease_seconds": 3},
            },
        )

    one, two = of("one"), of("two")
    staged = write_mr_series(tmp_path / "staged", 20, seed="staged")
    waited_for = write_mr_series(tmp_path / "waited", 5, seed="waited for")
    spooled = write_mr_series(tmp_path / "spooled", 5, seed="spooled")
    assert storescu(one.port, staged).returncode == 0
    wait_until(lambda: one.metric("relaypacs_staged_instances_total") == 20.0, "everything staged", 30)
    assert storescu(one.port, waited_for, calling="STAGED").returncode == 0
    storage.pause()
    assert storescu(one.port, spooled).returncode == 0
    wait_until(lambda: two.ledger()["received"] == 30, "rows", 20)
    one.kill()
    shutil.rmtree(one.state_dir)
    storage.go_on()
    with archive:
        wait_until(lambda: two.ledger()["delivered"] == 25, "what is in the bucket, by the other", 90)
        assert delivered(archive) == contents(staged + waited_for)
        assert two.ledger()["pending"] == 5, "neither forgotten nor called failed"
        assert storescu(two.port, spooled).returncode == 0
        wait_until(lambda: two.ledger()["pending"] == 0, "what was sent again", 60)
        wait_until(lambda: len(storage.objects()) == 30, "and stored", 30)
    book = two.ledger()
    assert (book["instances"], book["failed"], book["imbalance"]) == (30, 0, 0)
    assert set(delivered(archive)) == set(contents(staged + waited_for + spooled))
    wait_until(lambda: two.cli_json("verify")["good"] == 30, "every row names its object", 30)


def contents(files: list[Path]) -> list[bytes]:
    return sorted(dataset_of(path.read_bytes()) for path in files)


def delivered(archive: StoreScp) -> list[bytes]:
    return contents(archive.files())
