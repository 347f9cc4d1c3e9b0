"""What a bucket adds to staging: encryption and checksums that show, trouble that is named, bytes nobody else's."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relaypacs.config.secrets import StorageKeys
from relaypacs.config.stores import Staging
from relaypacs.errors import DigestMismatch, StagingDown, StagingError
from relaypacs.staging.protocol import StagedFacts
from relaypacs.staging.s3 import S3Staging
from relaypacs.staging.s3_bucket import init
from relaypacs.staging.s3_client import Storage
from relaypacs.staging.s3_read import _DAMAGED
from tests.peers.faulty_s3 import FaultyS3
from tests.peers.ports import free_port
from tests.peers.seaweed import KEYS, READER, SeaweedFS

KEY = "2026/01/02/study-00/11-22.dcm"
FACTS = StagedFacts("ab" * 32, "a-1", "MR Ä", "RELAY", "10.0.0.7:1", 1790000000.5)
FACTS_SAID = {
    "digest": "ab" * 32,
    "association-id": "a-1",
    "calling-ae": "MR%20%C3%84",
    "called-ae": "RELAY",
    "peer": "10.0.0.7:1",
    "received-at": "1790000000.5",
}
PART = 5 << 20
serial = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def bucket(server: SeaweedFS) -> str:
    return server.bucket(f"unit-{next(serial)}")


@pytest.fixture
def proxy(server: SeaweedFS) -> Iterator[FaultyS3]:
    with FaultyS3(server.s3_port) as proxy:
        yield proxy


def staging_at(endpoint: str, bucket: str, scratch: Path, keys: tuple[str, str] = KEYS, **options: Any) -> S3Staging:
    at = Staging(kind="s3", bucket=bucket, endpoint=endpoint, part_bytes=PART, read_timeout_seconds=10, **options)
    return S3Staging(at, lambda: StorageKeys(*keys), scratch=scratch)


def put(staging: S3Staging, content: bytes, key: str = KEY, facts: StagedFacts | None = FACTS) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        staging.put(key, file.fileno(), 0, len(content), facts)


def content(staging: S3Staging, key: str = KEY) -> bytes:
    with staging.open(key) as view:
        return bytes(view)


@pytest.mark.parametrize("size", [5000, PART + 5000])
def test_the_servers_own_headers_prove_encryption_and_checksum(
    server: SeaweedFS, bucket: str, tmp_path: Path, size: int
) -> None:
    body = os.urandom(size)
    for encryption, said in (("sse-s3", "AES256"), ("sse-kms", "aws:kms"), ("none", None)):
        key = KEY.replace("11", encryption)
        kms = {"kms_key_id": "relay-key"} if encryption == "sse-kms" else {}
        put(staging_at(server.endpoint, bucket, tmp_path, encryption=encryption, **kms), body, key)
        head = server.client().head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        assert head.get("ServerSideEncryption") == said
        assert head.get("SSEKMSKeyId") == kms.get("kms_key_id")
        parts = [body[at : at + PART] for at in range(0, size, PART)]
        sums = [hashlib.sha256(part).digest() for part in parts]
        expected = base64.b64encode(sums[0] if len(sums) == 1 else hashlib.sha256(b"".join(sums)).digest()).decode()
        assert head["ChecksumSHA256"] == expected + (f"-{len(sums)}" if len(sums) > 1 else "")
        assert head["Metadata"] == {"sha256": hashlib.sha256(body).hexdigest(), **FACTS_SAID}
        assert head["ContentType"] == "application/dicom"
        assert head["ContentLength"] == size


def test_a_server_that_got_other_bytes_refuses_them(server: SeaweedFS, bucket: str, tmp_path: Path) -> None:
    # The product's own request with a body changed on the way, as the server must see it.
    client = server.client()
    checksum = base64.b64encode(hashlib.sha256(b"what was sent").digest()).decode()
    with pytest.raises(client.exceptions.ClientError, match="BadDigest"):
        client.put_object(Bucket=bucket, Key=KEY, Body=b"what arrived", ChecksumSHA256=checksum)
    assert server.objects(bucket) == {}


@pytest.mark.parametrize("size", [5000, 2 * PART])
def test_a_put_whose_answer_was_lost_is_a_success(
    proxy: FaultyS3, server: SeaweedFS, bucket: str, tmp_path: Path, size: int
) -> None:
    body = os.urandom(size)
    staging = staging_at(proxy.endpoint, bucket, tmp_path)
    staging.check()
    proxy.fail("lost-answer", "PUT" if size < PART else "POST", times=2)
    put(staging, body)
    assert server.objects(bucket) == {KEY: size}
    assert content(staging) == body
    assert any(asked.headers.get("If-None-Match") == "*" for asked in proxy.requests)


@pytest.mark.parametrize("fault", ["reset", "slowdown"])
def test_trouble_that_passes_is_not_seen(
    proxy: FaultyS3, server: SeaweedFS, bucket: str, tmp_path: Path, fault: str
) -> None:
    body = os.urandom(500_000)
    staging = staging_at(proxy.endpoint, bucket, tmp_path)
    staging.check()
    proxy.fail(fault, "PUT", times=2)
    put(staging, body)
    assert content(staging) == body


def test_a_transfer_that_breaks_off_goes_on_where_it_was(proxy: FaultyS3, bucket: str, tmp_path: Path) -> None:
    body = os.urandom(3 << 20)
    staging = staging_at(proxy.endpoint, bucket, tmp_path)
    put(staging, body)
    proxy.requests.clear()
    proxy.fail("reset", "GET", times=3)
    assert content(staging) == body
    ranges = [asked.headers.get("Range", "") for asked in proxy.requests]
    assert ranges[0] == ""
    assert len(ranges) == 4
    starts = [int(one.removeprefix("bytes=").rstrip("-")) for one in ranges[1:]]
    assert starts == sorted(set(starts))
    assert starts[0] > 1 << 20
    assert all(asked.headers.get("If-Match") for asked in proxy.requests[1:])


@pytest.mark.parametrize("size", [5000, 2 << 20])
def test_bytes_that_are_not_those_that_were_put_are_shown_to_nobody(
    proxy: FaultyS3, bucket: str, tmp_path: Path, size: int
) -> None:
    body = os.urandom(size)
    staging = staging_at(proxy.endpoint, bucket, tmp_path)
    put(staging, body)
    proxy.fail("flip", "GET", times=1)
    assert content(staging) == body  # damaged on the way: fetched once more
    proxy.fail("flip", "GET")
    before = _DAMAGED._value.get()
    with pytest.raises(DigestMismatch), staging.open(KEY):
        raise AssertionError("nobody may see them")
    assert _DAMAGED._value.get() == before + 1


def test_nothing_is_overwritten_by_other_bytes(server: SeaweedFS, bucket: str, tmp_path: Path) -> None:
    staging = staging_at(server.endpoint, bucket, tmp_path)
    put(staging, b"a" * 100)
    with pytest.raises(StagingError, match="not overwritten"):
        put(staging, b"b" * 100, facts=StagedFacts("cd" * 32, "a-1", "", "", "", 0.0))
    with pytest.raises(StagingError, match="not overwritten"):
        put(staging, b"b" * 100, facts=None)
    assert content(staging) == b"a" * 100
    # The same instance, received from another AE title: another File Meta, the same dataset.
    put(staging, b"meta" + b"a" * 100)
    assert content(staging) == b"meta" + b"a" * 100


def test_deleting_in_a_versioned_bucket_keeps_the_version(server: SeaweedFS, tmp_path: Path) -> None:
    bucket = server.bucket(f"unit-{next(serial)}", versioned=True)
    staging = staging_at(server.endpoint, bucket, tmp_path)
    put(staging, b"a" * 100)
    staging.delete(KEY)
    assert list(staging.scan()) == []
    (version,) = server.client().list_object_versions(Bucket=bucket)["Versions"]
    assert version["Key"] == KEY


def test_an_upload_in_parts_that_fails_leaves_none(
    proxy: FaultyS3, server: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    staging = staging_at(proxy.endpoint, bucket, tmp_path, attempts=1)
    staging.check()
    proxy.fail("slowdown", "PUT", times=1)
    with pytest.raises(StagingDown):
        put(staging, os.urandom(2 * PART))
    assert server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert server.objects(bucket) == {}


def test_refusals_say_what_to_mend(server: SeaweedFS, bucket: str, tmp_path: Path) -> None:
    def refusal(staging: S3Staging) -> str:
        with pytest.raises(StagingDown) as refused:
            put(staging, b"x")
        return str(refused.value)

    at = server.endpoint
    nobody = refusal(staging_at(at, bucket, tmp_path, ("nobody", "x")))
    assert "refuses the credentials (InvalidAccessKeyId)" in nobody
    wrong = refusal(staging_at(at, bucket, tmp_path, (KEYS[0], "wrong")))
    assert "refuses the credentials (SignatureDoesNotMatch)" in wrong
    assert "does not allow put on bucket" in refusal(staging_at(at, bucket, tmp_path, READER))
    assert "there is no bucket absent-bucket" in refusal(staging_at(at, "absent-bucket", tmp_path))
    closed = f"http://127.0.0.1:{free_port()}"
    assert f"{closed} does not answer" in refusal(staging_at(closed, bucket, tmp_path, attempts=1))
    misplaced = refusal(staging_at(at, bucket, tmp_path, allowed_regions=("eu-central-1", "eu-west-1")))
    assert "region us-east-1" in misplaced
    assert "eu-central-1, eu-west-1" in misplaced
    put(staging_at(at, bucket, tmp_path, allowed_regions=("us-east-1",)), b"x")
    assert KEYS[1] not in nobody + wrong


def test_new_credentials_are_taken_without_a_restart(server: SeaweedFS, bucket: str, tmp_path: Path) -> None:
    shown = [StorageKeys(KEYS[0], "before"), StorageKeys(KEYS[0], "before"), StorageKeys(*KEYS)]
    options = Staging(kind="s3", bucket=bucket, endpoint=server.endpoint)
    staging = S3Staging(options, lambda: shown.pop(0) if len(shown) > 1 else shown[0], scratch=tmp_path)
    with pytest.raises(StagingDown):
        staging.check()
    staging._storage._down.clear()  # not to wait
    put(staging, b"x")


def test_init_makes_the_bucket_and_tells_what_was_not_accepted(server: SeaweedFS, tmp_path: Path) -> None:
    name = f"unit-{next(serial)}"
    options = Staging(kind="s3", bucket=name, endpoint=server.endpoint)
    storage = Storage(options, lambda: StorageKeys(*KEYS))
    for made in ("bucket made", "bucket is there"):
        steps = dict(init(storage))
        assert steps[made] == ""
        assert steps["versioning"] == steps["default encryption"] == ""
        assert steps["public access block"] == "not accepted (NotImplemented)"
        assert steps["lifecycle: GLACIER_IR after 90 days, DEEP_ARCHIVE after 365"] == "not accepted (NotImplemented)"
    client = server.client()
    assert client.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
    (rule,) = client.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    away = Staging(kind="s3", bucket="unit-away", endpoint=server.endpoint, allowed_regions=("eu-west-1",))
    with pytest.raises(StagingDown, match="region us-east-1"):
        list(init(Storage(away, lambda: StorageKeys(*KEYS))))
    assert "unit-away" not in [one["Name"] for one in client.list_buckets()["Buckets"]]


def test_init_sets_the_configured_key(server: SeaweedFS, tmp_path: Path) -> None:
    name = f"unit-{next(serial)}"
    options = Staging(kind="s3", bucket=name, endpoint=server.endpoint, encryption="sse-kms", kms_key_id="relay-key")
    assert dict(init(Storage(options, lambda: StorageKeys(*KEYS))))["default encryption"] == ""
    (rule,) = server.client().get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    default = rule["ApplyServerSideEncryptionByDefault"]
    assert (default["SSEAlgorithm"], default["KMSMasterKeyID"]) == ("aws:kms", "relay-key")
    assert rule["BucketKeyEnabled"]


def test_no_room_on_the_local_disk_is_told_and_leaves_nothing(server: SeaweedFS, bucket: str, tmp_path: Path) -> None:
    options = Staging(kind="s3", bucket=bucket, endpoint=server.endpoint, part_bytes=PART)
    staging = S3Staging(options, lambda: StorageKeys(*KEYS), scratch=tmp_path, leave_free_bytes=1 << 60)
    put(staging, os.urandom(3 << 20))
    put(staging, b"small", KEY.replace("11", "12"))
    with pytest.raises(StagingError, match="no room"), staging.open(KEY):
        pass
    assert content(staging, KEY.replace("11", "12")) == b"small"
    assert list(tmp_path.iterdir()) == []


_CARRY = """
import sys, tempfile
from pathlib import Path
from tests.unit.staging.test_s3 import staging_at, KEY
endpoint, bucket, folder, size = sys.argv[1:]
def grown():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) / 1024
staging = staging_at(endpoint, bucket, Path(folder))
staging.check()
with tempfile.NamedTemporaryFile(dir=folder) as file:
    piece = bytes(range(256)) * 4096
    for _ in range(int(size) >> 20): file.write(piece)
    file.flush()
    del piece
    before, most = grown(), [0.0]
    import threading, time
    done = threading.Event()
    def watch():
        while not done.wait(0.02): most[0] = max(most[0], grown())
    threading.Thread(target=watch, daemon=True).start()
    staging.put(KEY, file.fileno(), 0, int(size))
    put = most[0] - before
with staging.open(KEY) as view:
    assert len(view) == int(size)
    for at in range(0, len(view), 1 << 20): assert view[at] == 0 and view[at + 255] == 255
done.set()
print(f"{put:.1f} {most[0] - before:.1f}")
"""


def test_memory_is_bounded_whatever_the_size(server: SeaweedFS, bucket: str, tmp_path: Path, long_run: bool) -> None:
    size = 4 << 30 if long_run else 64 << 20
    done = subprocess.run(
        [sys.executable, "-c", _CARRY, server.endpoint, bucket, str(tmp_path), str(size)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    put_mib, read_mib = map(float, done.stdout.split())
    print(f"{size >> 20} MiB: RSS (anonymous) grew {put_mib} MiB putting, {read_mib} MiB with reading")
    assert server.objects(bucket) == {KEY: size}
    assert max(put_mib, read_mib) < 64


def test_while_it_is_down_one_request_tries_and_the_others_fail_at_once(
    proxy: FaultyS3, bucket: str, tmp_path: Path
) -> None:
    staging = staging_at(proxy.endpoint, bucket, tmp_path, attempts=1)
    put(staging, b"x")
    proxy.fail("slowdown")
    with pytest.raises(StagingDown):
        content(staging)
    proxy.requests.clear()
    for _ in range(20):
        with pytest.raises(StagingDown, match="SlowDown"):
            content(staging)
    assert proxy.requests == []
    # Its time is over: of many that come at once one asks, however long that takes, and then all may.
    staging._storage._down[""] = staging._storage._down[""]._replace(until=0.0)
    proxy.fail("slow", seconds=1.0)
    outcomes: list[str] = []

    def get() -> None:
        try:
            outcomes.append(content(staging).decode())
        except StagingDown:
            outcomes.append("down")

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(proxy.requests), sorted(outcomes)) == (1, ["down"] * 7 + ["x"])
    proxy.heal()
    assert content(staging) == b"x"


def test_what_may_not_be_put_can_still_be_read(server: SeaweedFS, bucket: str, tmp_path: Path) -> None:
    put(staging_at(server.endpoint, bucket, tmp_path), b"x")
    reader = staging_at(server.endpoint, bucket, tmp_path, READER)
    for _ in range(2):
        with pytest.raises(StagingDown, match="does not allow put"):
            put(reader, b"y", KEY.replace("11", "12"))
        assert content(reader) == b"x"
