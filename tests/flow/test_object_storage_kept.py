"""A node and the record in its bucket: restored from it alone, deleted from it only as told, kept where it may lie."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.peers.dcmtk import StoreScp, storescu
from tests.peers.faulty_s3 import FaultyS3
from tests.peers.node import Node, dimse
from tests.peers.ports import free_port, wait_until
from tests.peers.seaweed import BUCKET, KEYS, SeaweedFS
from tests.samples import dataset_of, read_sample, write_mr_series, write_multi_frame

SEGMENT = {"segment_bytes": 1 << 20}


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeaweedFS]:
    monkeypatch.setenv("MINIO_ACCESS_KEY", KEYS[0])
    monkeypatch.setenv("MINIO_SECRET_KEY", KEYS[1])
    with SeaweedFS(tmp_path / "seaweed") as server:
        yield server


def datasets(files: list[Path]) -> list[bytes]:
    return sorted(dataset_of(path.read_bytes()) for path in files)


def restored(relay: Node, verb: str) -> dict[str, Any]:
    """Of `rebuild` or `reconcile`, some of whose objects can't be read."""
    done = relay.cli(verb, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_a_lost_node_and_job_table_are_restored_from_the_bucket_alone(
    tmp_path: Path, storage: SeaweedFS, node: Callable[..., Node], storescp: Callable[..., StoreScp], peers: ExitStack
) -> None:
    proxy = peers.enter_context(FaultyS3(storage.s3_port))
    files = write_mr_series(tmp_path / "series", 25)
    archive = storescp()
    settings: dict[str, Any] = {
        "destinations": [dimse("archive", archive.port, archive.aet)],
        "sections": {"staging": storage.section(endpoint=proxy.endpoint, prefix="record", hot_seconds=0.0)},
    }
    relay = node(**settings)
    assert storescu(relay.port, files, calling="MR_7").returncode == 0
    relay.wait_settled(25)
    wait_until(lambda: len(storage.objects()) == 25, "everything stored", 30)
    relay.stop()
    shutil.rmtree(relay.state_dir)
    client = storage.client()
    keys = sorted(storage.objects())
    client.put_object(Bucket=BUCKET, Key="elsewhere/report.dcm", Body=b"not ours")
    client.put_object(Bucket=BUCKET, Key="record/README", Body=b"not an instance")
    # One that somebody copied without its metadata, and one whose bytes are another's.
    bare = client.get_object(Bucket=BUCKET, Key=keys[0])["Body"].read()
    client.put_object(Bucket=BUCKET, Key=keys[0], Body=bare)
    client.put_object(Bucket=BUCKET, Key=keys[1], Body=bare)
    found = 24
    relay = node("second", **settings)
    wait_until(lambda: len(relay.events("rows-missing")) == 1, "a line that says so", 30)
    # The service has moved them all to an archive: that is told, and is no end of it.
    proxy.fail("archived", "GET", path=".dcm")
    said = restored(relay, "rebuild")
    assert (said["looked_at"], said["restored"], said["unreadable"]) == (26, 0, 26)
    proxy.heal()
    said = restored(relay, "rebuild")
    assert (said["looked_at"], said["restored"], said["held"], said["unreadable"]) == (26, found, found, 2)
    book = relay.ledger()
    assert (book["instances"], book["held"], book["pending"], book["imbalance"]) == (found, found, 0, 0)
    with sqlite3.connect(relay.state_dir / "jobs.sqlite") as connection:
        callers = [row[0] for row in connection.execute("SELECT DISTINCT calling_ae FROM association ORDER BY 1")]
    assert "MR_7" in callers, "from the objects' metadata"
    # Rows go while the node lives: it asks its bucket, and delivers what is young.
    with sqlite3.connect(relay.state_dir / "jobs.sqlite") as connection:
        connection.execute("PRAGMA busy_timeout = 10000")
        for table, which in (("delivery", "instance_id"), ("instance", "id")):
            connection.execute(f"DELETE FROM {table} WHERE {which} <= 4")
        connection.execute(
            "UPDATE tally SET received = received - 4, routed = routed - 4 WHERE association_id LIKE 'restored%'"
        )
    said = restored(relay, "reconcile")
    assert (said["restored"], said["queued"], said["unreadable"]) == (4, 4, 2)
    assert relay.cli("release", "--all", "--yes").returncode == 0
    wait_until(lambda: relay.ledger()["delivered"] == found, "what was released", 60)
    assert relay.cli_json("verify")["good"] == found
    assert datasets(archive.files()) == datasets(files), "the archive had them all before"


def test_a_bucket_in_a_region_that_is_not_allowed_is_refused_at_start(tmp_path: Path, storage: SeaweedFS) -> None:
    for regions, starts in ((["eu-central-1", "eu-west-1"], False), (["eu-west-1", "us-east-1"], True)):
        relay = Node(
            tmp_path / f"node-{starts}",
            sections={"staging": storage.section(allowed_regions=regions), "routing": {"default": []}},
        )
        if starts:
            with relay:
                assert relay.get("/readyz")[0] == 200
            continue
        relay.launch()
        wait_until(lambda relay=relay: relay.program.exit_code is not None, "an end", 30)  # type: ignore[misc]
        assert relay.program.exit_code == 2
        assert "lies in region us-east-1" in relay.log()
        assert "allowed_regions are eu-central-1, eu-west-1" in relay.log()
        relay.stop()
    assert storage.objects() == {}


def test_what_is_deleted_in_a_locked_bucket_is_a_former_version_and_is_not_deleted_again(
    tmp_path: Path, storage: SeaweedFS, node: Callable[..., Node]
) -> None:
    client = storage.client()
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    client.put_object_lock_configuration(
        Bucket="locked",
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}},
        },
    )

    def listed() -> tuple[int, int]:
        found = client.list_object_versions(Bucket="locked")
        return len(found.get("Versions", ())), len(found.get("DeleteMarkers", ()))

    archive = StoreScp(tmp_path / "archive", aet="ARCHIVE")
    archive.port = free_port()
    relay = node(
        destinations=[dimse("archive", archive.port, "ARCHIVE", retry="1000x1s")],
        sections={"staging": storage.section(bucket="locked", hot_seconds=0.0, keep="none"), "spool": SEGMENT},
    )
    files = write_mr_series(tmp_path / "series", 6)
    assert storescu(relay.port, files).returncode == 0
    wait_until(lambda: len(storage.objects("locked")) == 6, "everything stored", 30)
    with archive:
        relay.wait_settled(6)
        wait_until(lambda: storage.objects("locked") == {}, "nothing kept", 60)
        wait_until(lambda: relay.metric("relaypacs_purged_instances_total") == 6.0, "a count", 10)
        assert listed() == (6, 6)
        # It comes again, is delivered again, and nothing of before is deleted or put a second time.
        assert storescu(relay.port, files[:1]).returncode == 0
        book = relay.wait_settled(7)
    assert (book["failed"], book["imbalance"]) == (0, 0)
    wait_until(lambda: storage.objects("locked") == {}, "nothing kept", 60)
    versions, markers = listed()
    assert 6 <= versions == markers <= 7
    first = client.list_object_versions(Bucket="locked")["Versions"][0]
    with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
        client.delete_object(Bucket="locked", Key=first["Key"], VersionId=first["VersionId"])


def test_a_key_that_may_not_delete_is_said_and_everything_else_goes_on(
    tmp_path: Path, storage: SeaweedFS, node: Callable[..., Node], peers: ExitStack
) -> None:
    proxy = peers.enter_context(FaultyS3(storage.s3_port))
    archive = StoreScp(tmp_path / "archive", aet="ARCHIVE")
    archive.port = free_port()
    relay = node(
        destinations=[dimse("archive", archive.port, "ARCHIVE", retry="1000x1s")],
        sections={
            "staging": storage.section(endpoint=proxy.endpoint, hot_seconds=0.0, keep="none"),
            "spool": SEGMENT,
        },
    )
    files = write_mr_series(tmp_path / "series", 50)
    assert storescu(relay.port, files[:40]).returncode == 0
    wait_until(lambda: len(storage.objects()) == 40, "everything stored", 30)
    proxy.fail("denied", "DELETE")
    with archive:
        relay.wait_settled(40)
        wait_until(lambda: "does not allow delete" in relay.get("/readyz")[1], "a word of it", 30)
        assert relay.get("/readyz")[0] == 200
        assert storescu(relay.port, files[40:]).returncode == 0
        relay.wait_settled(50)
        wait_until(lambda: relay.metric("relaypacs_spool_freed_segments_total") >= 1.0, "freed segments", 30)
        asked = len([one for one in proxy.requests if one.method == "DELETE"])
        assert asked < 12, "not again and again"
        assert len(storage.objects()) >= 40
        proxy.heal()
        wait_until(lambda: storage.objects() == {}, "nothing kept", 60)
    book = relay.ledger()
    assert (book["delivered"], book["failed"], book["imbalance"]) == (50, 0, 0)
    assert len(datasets(archive.files())) == 50


class Watch:
    """The most anonymous memory that each process of a node has had, in MiB above what it had first."""

    def __init__(self, relay: Node) -> None:
        self._pids = relay.pids()
        self._first = {pid: self._now(pid) for pid in self._pids}
        self._most = dict(self._first)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _now(self, pid: int) -> int:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
        return 0

    def _run(self) -> None:
        while not self._over.wait(0.05):
            for pid in self._pids:
                self._most[pid] = max(self._most[pid], self._now(pid))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def grown(self) -> float:
        """That of the one that grew most."""
        return max(self._most[pid] - self._first[pid] for pid in self._pids) / 1024


@pytest.mark.timeout(1800)
def test_a_long_object_passes_through_the_bucket_in_bounded_memory(
    tmp_path: Path, storage: SeaweedFS, node: Callable[..., Node], long_run: bool
) -> None:
    """In from a modality, to the bucket in parts, and out of it to a PACS that was down."""
    archive = StoreScp(tmp_path / "archive", aet="ARCHIVE")
    archive.port = free_port()
    relay = node(
        destinations=[dimse("archive", archive.port, "ARCHIVE", retry="1000x1s")],
        sections={"staging": storage.section(hot_seconds=0.0), "spool": SEGMENT},
    )
    small = write_mr_series(tmp_path / "small", 3)
    assert storescu(relay.port, small).returncode == 0  # what is loaded only when it is needed
    wait_until(lambda: len(storage.objects()) == 3, "small ones stored", 30)
    long = tmp_path / "long.dcm"
    write_multi_frame(long, (4 << 30) - (2 << 20) if long_run else 96 << 20)
    with Watch(relay) as watch:
        assert storescu(relay.port, [long], timeout_seconds=900.0).returncode == 0
        wait_until(lambda: len(storage.objects()) == 4, "the long one stored", 900, every_seconds=0.5)
        wait_until(lambda: relay.metric("relaypacs_spool_freed_segments_total") >= 1.0, "its segment freed", 60)
        with archive:
            book = relay.wait_settled(4, 900)
    assert (book["delivered"], book["failed"], book["imbalance"]) == (4, 0, 0)
    print(f"{long.stat().st_size >> 20} MiB: the process that grew most grew by {watch.grown():.1f} MiB")
    assert watch.grown() < 64
    found = max(archive.files(), key=lambda path: path.stat().st_size)
    with long.open("rb") as sent, found.open("rb") as got:
        sent.seek(read_sample(long).dataset_offset)
        got.seek(read_sample(found).dataset_offset)
        while piece := sent.read(1 << 20):
            assert got.read(1 << 20) == piece
        assert got.read(1) == b""
