"""A node whose staging is a bucket of a real SeaweedFS, which is then taken away in every way there is."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pydicom
import pytest

from tests.contract.test_jobs import postgres
from tests.contract.test_jobs.postgres import Postgres
from tests.peers.dcmtk import StoreScp, storescu
from tests.peers.faulty_s3 import FaultyS3
from tests.peers.node import Node, dimse
from tests.peers.ports import free_port, wait_until
from tests.peers.seaweed import BUCKET, KEYS, READER, SeaweedFS
from tests.samples import dataset_of, read_sample, write_mr_series

SHORT = {"read-only"}
"""The faults of a short run; other tests stop and pause the storage."""


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path / "seaweed") as server:
        yield server


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """For nodes and for commands beside them."""
    monkeypatch.setenv("MINIO_ACCESS_KEY", KEYS[0])
    monkeypatch.setenv("MINIO_SECRET_KEY", KEYS[1])


def staging_of(relay: Node) -> dict[str, Any]:
    status, body = relay.get("/readyz")
    found: dict[str, Any] = json.loads(body)["checks"]["staging"]
    assert status == 200, "object storage never makes a node unready: the spool takes objects in"
    return found


def datasets(files: list[Path]) -> list[bytes]:
    return sorted(path.read_bytes()[read_sample(path).dataset_offset :] for path in files)


def stored(storage: SeaweedFS) -> list[bytes]:
    client = storage.client()
    found = []
    for key in storage.objects():
        answer = client.get_object(Bucket=BUCKET, Key=key)
        whole = answer["Body"].read()
        assert answer["Metadata"]["sha256"] == hashlib.sha256(whole).hexdigest()
        assert re.fullmatch(r"\d{4}/\d\d/\d\d/study-[0-9a-f]{32}/[0-9a-f]{32}-[0-9a-f]{16}\.dcm", key)
        found.append(dataset_of(whole))
    return sorted(found)


def read_study(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)


def freed(relay: Node) -> bool:
    return not list((relay.state_dir / "spool" / "segments").glob("*.tar"))


@pytest.mark.timeout(900)
def test_the_outage_matrix(
    tmp_path: Path, storage: SeaweedFS, peers: ExitStack, storescp: Callable[..., StoreScp], long_run: bool
) -> None:
    proxy = peers.enter_context(FaultyS3(storage.s3_port))
    archive = storescp()
    secret = tmp_path / "secret"
    access = tmp_path / "access"

    def show(keys: tuple[str, str]) -> None:
        access.write_text(keys[0])
        secret.write_text(keys[1])

    # Put fault, end fault, whether `/readyz` has to name it.
    faults: dict[str, tuple[Callable[[], object], Callable[[], object], str]] = {
        "down": (storage.stop, storage.start, "trouble|answer"),
        "paused": (storage.pause, storage.go_on, "answer"),
        "slow": (lambda: proxy.fail("slow", seconds=5.0), proxy.heal, ""),
        "slowdown": (lambda: proxy.fail("slowdown"), proxy.heal, "overloaded or in trouble .SlowDown"),
        "reset": (lambda: proxy.fail("reset"), proxy.heal, "does not answer"),
        "wrong credentials": (lambda: show((KEYS[0], "wrong")), lambda: show(KEYS), "refuses the credentials"),
        "no bucket": (lambda: proxy.fail("no-bucket"), proxy.heal, "no bucket relay"),
        "read-only": (lambda: show(READER), lambda: show(KEYS), "does not allow put"),
    }
    show(KEYS)
    bounds = {"read_timeout_seconds": 8.0, "attempts": 2, "hot_seconds": 0.0}
    relay = Node(
        tmp_path / "node",
        destinations=[dimse("archive", archive.port, archive.aet)],
        callers=[{"ae_title": "STAGED", "ack": "staged"}, {"ae_title": "*"}],
        sections={
            "staging": storage.section(endpoint=proxy.endpoint, **bounds),
            "receive": {"staged_timeout_seconds": 3.0},
        },
        environment={"MINIO_ACCESS_KEY_FILE": str(access), "MINIO_SECRET_KEY_FILE": str(secret)},
    )
    peers.callback(relay.stop)
    files: list[Path] = []
    matrix = []

    def under(fault: str) -> None:
        begin, end, named = faults[fault]
        some = write_mr_series(tmp_path / f"series-{len(files)}", 10, seed=fault)
        files.extend(some)
        begin()
        # Credentials are read when they are needed: at a start, or when the service refused the former ones.
        relay.stop()
        relay.start()
        sent = storescu(relay.port, some)
        assert sent.returncode == 0, sent.stdout
        wait_until(lambda: len(archive.files()) == len(files), f"hot delivery with storage {fault}", 30)
        # One who waits for the storage is told that it has not got it: relayed it is all the same.
        waited_for = write_mr_series(tmp_path / f"waited-{len(files)}", 1, seed=f"{fault}, waited for")
        files.extend(waited_for)
        refused = storescu(relay.port, waited_for, calling="STAGED", options=("-x=", "-v"))
        assert "Refused: OutOfResources" in refused.stdout, refused.stdout
        wait_until(lambda: len(archive.files()) == len(files), f"hot delivery with storage {fault}", 30)
        if named:
            wait_until(lambda: re.search(named, staging_of(relay)["reason"]) is not None, f"a name for {fault}", 40)
            assert not staging_of(relay)["ok"]
            assert not freed(relay)
        end()
        wait_until(lambda: len(storage.objects()) == len(files), f"everything stored after {fault}", 60)
        wait_until(lambda: staging_of(relay)["ok"], f"health after {fault}", 40)
        book = relay.wait_settled(len(files), 30)
        lost = len(files) - book["delivered"]
        matrix.append(f"{fault}: answered 0000 to 10 of 10, A700 to 1 of 1 that waited for it; lost {lost}")
        assert (book["received"], book["imbalance"], lost) == (len(files), 0, 0)

    for fault in faults:
        if long_run or fault in SHORT:
            under(fault)
    print("\n".join(matrix))
    assert stored(storage) == datasets(files)
    assert sorted(dataset_of(path.read_bytes()) for path in archive.files()) == datasets(files)


@pytest.mark.usefixtures("credentials")
def test_damaged_bytes_are_never_sent(
    tmp_path: Path, storage: SeaweedFS, node: Callable[..., Node], storescp: Callable[..., StoreScp]
) -> None:
    port = free_port()
    relay = node(
        destinations=[dimse("archive", port, "ARCHIVE", retry="1000x1s")],
        sections={"staging": storage.section(hot_seconds=0.0), "spool": {"segment_bytes": 1 << 20}},
    )
    files = write_mr_series(tmp_path / "series", 3)
    assert storescu(relay.port, files).returncode == 0
    wait_until(lambda: len(storage.objects()) == 3, "three objects stored", 30)
    study = read_study(files[0])
    assert relay.cli("export", study, tmp_path / "out").returncode == 0
    assert relay.cli("export", study, tmp_path / "out.tar").returncode == 0
    assert datasets(sorted((tmp_path / "out").iterdir())) == datasets(files)
    with tarfile.open(tmp_path / "out.tar") as archive_file:
        for entry in archive_file:
            opened = archive_file.extractfile(entry)
            assert opened is not None
            assert opened.read() == (tmp_path / "out" / entry.name).read_bytes()
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert relay.cli("export", study, tmp_path / "out").returncode == 2, "a folder with files in it is left alone"
    assert relay.cli("export", "1.2.3", tmp_path / "none").returncode == 1
    assert relay.cli_json("verify")["checked"] == 3
    client = storage.client()
    damaged = sorted(storage.objects())[0]
    missing = client.get_object(Bucket=BUCKET, Key=sorted(storage.objects())[2])["Body"].read()
    was = client.get_object(Bucket=BUCKET, Key=damaged)
    body = bytearray(was["Body"].read())
    body[-1] ^= 1
    client.put_object(Bucket=BUCKET, Key=damaged, Body=bytes(body), Metadata=was["Metadata"])
    client.delete_object(Bucket=BUCKET, Key=sorted(storage.objects())[2])
    verified = relay.cli("verify", "--since", "1h", "--json")
    assert verified.returncode == 1
    report = json.loads(next(line for line in verified.stdout.splitlines() if line.startswith('{"checked"')))
    assert (report["checked"], report["good"], report["unreadable"]) == (3, 1, [])
    assert report["damaged"][0]["key"] == damaged
    assert len(report["missing"]) == 1
    assert relay.cli("export", study, tmp_path / "rest").returncode == 1
    assert len(list((tmp_path / "rest").iterdir())) == 1
    client.put_object(Bucket=BUCKET, Key=report["missing"][0]["key"], Body=missing)
    archive = StoreScp(tmp_path / "archive", aet="ARCHIVE")
    archive.port = port
    with archive:
        book = relay.wait_settled(3, 60)
    assert (book["delivered"], book["failed"]) == (2, 1)
    assert len(archive.files()) == 2
    assert dataset_of(bytes(body)) not in [dataset_of(path.read_bytes()) for path in archive.files()]
    assert relay.metric("relaypacs_staging_damaged_total") == 1.0
    uid = {read_sample(one).sop_instance_uid for one in files} - {
        read_sample(one).sop_instance_uid for one in archive.files()
    }
    traced = " ".join(relay.cli("trace", uid.pop()).stdout.split())
    assert "not those that were received" in traced


@pytest.mark.usefixtures("credentials")
def test_a_caller_with_ack_staged_never_gets_a_false_success(
    tmp_path: Path, storage: SeaweedFS, node: Callable[..., Node], storescp: Callable[..., StoreScp]
) -> None:
    archive = storescp()
    relay = node(
        destinations=[dimse("archive", archive.port, archive.aet, retry="1000x1s")],
        callers=[{"ae_title": "STAGED", "ack": "staged"}, {"ae_title": "*"}],
        sections={
            "staging": storage.section(hot_seconds=60.0, attempts=1, connect_timeout_seconds=1.0),
            "receive": {"staged_timeout_seconds": 6.0},
        },
    )
    files = write_mr_series(tmp_path / "series", 8)
    assert storescu(relay.port, files[:4], calling="STAGED").returncode == 0
    # Nothing to wait for: it was there when Success was answered, and so were its rows.
    assert len(storage.objects()) == 4
    assert relay.cli_json("trace", read_sample(files[0]).sop_instance_uid)["instances"][0]["staged"]
    assert storescu(relay.port, files[:1], calling="STAGED").returncode == 0, "the same again"
    storage.stop()
    answers: list[str] = []
    options = ("-x=", "--no-halt", "-v")
    waits = threading.Thread(
        target=lambda: answers.append(storescu(relay.port, files[4:6], calling="STAGED", options=options).stdout)
    )
    waits.start()
    wait_until(lambda: relay.ledger()["received"] == 6, "the first of them spooled", 10)
    assert storescu(relay.port, files[6:], calling="OTHER").returncode == 0
    assert waits.is_alive(), "others are not waiting with it"
    exported = relay.cli("export", read_study(files[6]), tmp_path / "hot")
    assert exported.returncode == 1, "object storage is down"
    hot = {read_sample(path).sop_instance_uid for path in (tmp_path / "hot").iterdir()}
    assert hot >= {read_sample(path).sop_instance_uid for path in files[6:]}, (
        "what is still in the spool comes from there"
    )
    waits.join(60)
    assert answers[0].count("Refused: OutOfResources") == 2, answers[0]
    assert relay.metric('relaypacs_received_objects_total{status="A700"}') == 2.0
    storage.start()
    assert storescu(relay.port, files[4:6], calling="STAGED").returncode == 0
    assert len(storage.objects()) >= 6
    book = relay.wait_settled(11, 30)
    assert (book["instances"], book["imbalance"], book["failed"]) == (8, 0, 0)


@pytest.mark.usefixtures("credentials")
def test_an_outage_of_the_storage_uses_up_no_attempt(
    tmp_path: Path, storage: SeaweedFS, node: Callable[..., Node]
) -> None:
    """What is only in the bucket waits for it, however short the destination's schedule is."""
    archive = StoreScp(tmp_path / "archive", aet="ARCHIVE")
    archive.port = free_port()
    relay = node(
        destinations=[dimse("archive", archive.port, "ARCHIVE", retry="2x1s")],
        sections={
            "staging": storage.section(hot_seconds=0.0, attempts=1, connect_timeout_seconds=1.0),
            "spool": {"segment_bytes": 1 << 20},
        },
    )
    files = write_mr_series(tmp_path / "series", 40)
    assert storescu(relay.port, files).returncode == 0
    wait_until(lambda: len(storage.objects()) == 40, "everything staged", 30)
    # The last segment stays open, and hot; what is in the others is only in the bucket.
    wait_until(lambda: relay.metric("relaypacs_spool_freed_segments_total") >= 1.0, "a segment freed", 30)
    storage.stop()
    with archive:
        uid = read_sample(files[0]).sop_instance_uid

        def delivery() -> dict[str, Any]:
            found: dict[str, Any] = relay.cli_json("trace", uid)["instances"][0]["deliveries"][0]
            return found

        wait_until(lambda: "waits for its bytes" in (delivery()["reason"] or ""), "a put-off", 60)
        first = delivery()
        wait_until(lambda: delivery()["next_attempt_at"] not in (None, first["next_attempt_at"]), "another", 30)
        later = delivery()
        assert (later["state"], later["attempts"]) == ("deferred", first["attempts"])
        assert relay.metric('relaypacs_destination_up{destination="archive"}') == 1.0
        storage.start()
        book = relay.wait_settled(40, 90)
        assert (book["delivered"], book["failed"], book["imbalance"]) == (40, 0, 0)
        assert delivery()["attempts"] == first["attempts"] + 1


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A PostgreSQL for nodes and commands."""
    binaries = postgres.debian_binaries()
    if binaries is None:
        pytest.skip("needs Debian's package postgresql")
    with Postgres(binaries) as server:
        monkeypatch.setenv("DATABASE_URL", server.create_database("relay").replace("+psycopg", ""))
        yield


@pytest.mark.usefixtures("credentials")
def test_what_a_lost_node_had_staged_is_delivered_by_the_other(
    tmp_path: Path, storage: SeaweedFS, database: None, node: Callable[..., Node]
) -> None:
    port = free_port()
    to = [dimse("archive", port, "ARCHIVE", retry="1000x1s")]
    staged_at_once = storage.section(hot_seconds=0.0)
    one = node(
        "one", destinations=to,
        sections={"node": {"name": "one"}, "staging": staged_at_once, "jobs": {"lease_seconds": 3}},
    )  # fmt: skip
    two = node(
        "two", destinations=to,
        sections={"node": {"name": "two"}, "staging": staged_at_once, "jobs": {"lease_seconds": 3}},
    )  # fmt: skip
    staged = write_mr_series(tmp_path / "a", 20, seed="a")
    assert storescu(one.port, staged).returncode == 0
    wait_until(lambda: len(storage.objects()) == 20, "everything staged", 30)
    wait_until(lambda: one.metric("relaypacs_staged_instances_total") == 20.0, "and known", 10)
    storage.pause()
    spooled = write_mr_series(tmp_path / "b", 5, seed="b")
    assert storescu(one.port, spooled).returncode == 0
    wait_until(lambda: one.ledger()["received"] == 25, "rows", 20)
    one.kill()
    storage.go_on()
    archive = StoreScp(tmp_path / "archive", aet="ARCHIVE")
    archive.port = port
    with archive:
        wait_until(lambda: len(archive.files()) >= 20, "what the lost node had staged, from the other", 90)
        assert sorted(dataset_of(path.read_bytes()) for path in archive.files()) == datasets(staged)
        wait_until(lambda: two.ledger()["delivered"] == 20, "its settlements", 20)
        assert two.ledger()["pending"] == 5
        one.start()
        wait_until(lambda: len(archive.files()) == 25, "what was only in its spool, when it returns", 60)
        wait_until(lambda: two.ledger()["delivered"] == 25, "its settlements", 30)
    assert sorted(dataset_of(path.read_bytes()) for path in archive.files()) == datasets(staged + spooled)
    assert two.ledger()["imbalance"] == 0
