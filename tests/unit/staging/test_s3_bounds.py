"""What requests to a bucket look like and cost: as Amazon describes them, in their time, over few connections."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.validate import validate_parameters

from relaypacs.config.secrets import StorageKeys
from relaypacs.config.stores import Staging
from relaypacs.errors import StagingDown, StagingError
from relaypacs.staging.protocol import StagedFacts
from relaypacs.staging.s3 import S3Staging
from relaypacs.staging.s3_bucket import init
from relaypacs.staging.s3_client import Storage, make_client
from tests.peers.faulty_s3 import FaultyS3
from tests.peers.ports import free_port
from tests.peers.seaweed import BUCKET, KEYS, SeaweedFS

KEY = "2026/01/02/study-00/11-22.dcm"
FACTS = StagedFacts("ab" * 32, "a-1", "MR Ä", "RELAY", "10.0.0.7:1", 1790000000.5)
PART = 5 << 20
serial = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def proxy(server: SeaweedFS) -> Iterator[FaultyS3]:
    with FaultyS3(server.s3_port) as proxy:
        yield proxy


def staging_at(endpoint: str, scratch: Path, **options: Any) -> S3Staging:
    at = Staging(
        kind="s3", bucket=BUCKET, endpoint=endpoint, part_bytes=PART, prefix=f"bounds-{next(serial)}", **options
    )
    return S3Staging(at, lambda: StorageKeys(*KEYS), scratch=scratch)


def put(staging: S3Staging, content: bytes, key: str = KEY) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        staging.put(key, file.fileno(), 0, len(content), FACTS)


def test_every_request_is_as_amazon_describes_it(server: SeaweedFS, tmp_path: Path) -> None:
    """In production nobody looks: the client leaves the check out."""
    asked: dict[str, int] = {}

    def look(params: dict[str, Any], model: Any, **_: object) -> None:
        asked[model.name] = asked.get(model.name, 0) + 1
        validate_parameters(params, model.input_shape)

    staging = staging_at(server.endpoint, tmp_path, encryption="sse-kms", kms_key_id="relay-key")
    staging._storage.client().meta.events.register("before-parameter-build.s3", look)
    for content in (b"x" * 1000, os.urandom(PART + 1)):
        for _ in range(2):  # the second finds it there
            put(staging, content)
        assert staging.describe(KEY, 100).facts == FACTS
        with staging.open(KEY) as view:
            assert bytes(view) == content
        assert [key for key, _ in staging.scan()] == [KEY]
        staging.delete(KEY)
    bucket = Staging(kind="s3", bucket=f"unit-{next(serial)}", endpoint=server.endpoint, allowed_regions=("us-east-1",))
    storage = Storage(bucket, lambda: StorageKeys(*KEYS))
    storage.client().meta.events.register("before-parameter-build.s3", look)
    list(init(storage))
    assert {
        *("PutObject", "HeadObject", "GetObject", "DeleteObject", "ListObjectsV2", "ListMultipartUploads"),
        *("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"),
        *("CreateBucket", "HeadBucket", "PutBucketVersioning", "PutBucketEncryption", "PutPublicAccessBlock"),
        *("GetBucketLifecycleConfiguration", "PutBucketLifecycleConfiguration"),
    } <= asked.keys()


def test_init_asks_for_the_lifecycle_of_medical_records_and_for_no_public_access(server: SeaweedFS) -> None:
    """Also of a service that does not accept it, as this one: what was asked for is looked at before it leaves."""
    asked: dict[str, list[dict[str, Any]]] = {}

    def look(params: dict[str, Any], model: Any, **_: object) -> None:
        asked.setdefault(model.name, []).append(params)

    options = Staging(kind="s3", bucket=f"unit-{next(serial)}", endpoint=server.endpoint, prefix="record")
    storage = Storage(options, lambda: StorageKeys(*KEYS))
    storage.client().meta.events.register("before-parameter-build.s3", look)
    list(init(storage))
    rules = [
        rule for one in asked["PutBucketLifecycleConfiguration"] for rule in one["LifecycleConfiguration"]["Rules"]
    ]
    records = next(rule for rule in rules if rule["ID"] == "relaypacs-records")
    assert records["Transitions"] == [
        {"Days": 90, "StorageClass": "GLACIER_IR"},
        {"Days": 365, "StorageClass": "DEEP_ARCHIVE"},
    ]
    uploads = next(rule for rule in rules if rule["ID"] == "relaypacs-uploads")
    assert uploads["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert {(rule["Status"], rule["Filter"]["Prefix"]) for rule in (records, uploads)} == {("Enabled", "record/")}
    (public,) = asked["PutPublicAccessBlock"]
    assert sorted(public["PublicAccessBlockConfiguration"].items()) == [
        *(("BlockPublicAcls", True), ("BlockPublicPolicy", True)),
        *(("IgnorePublicAcls", True), ("RestrictPublicBuckets", True)),
    ]


def test_a_service_that_is_silent_is_given_up_after_its_time(proxy: FaultyS3, tmp_path: Path) -> None:
    staging = staging_at(proxy.endpoint, tmp_path, attempts=2, read_timeout_seconds=0.5)
    staging.check()
    proxy.requests.clear()
    proxy.fail("slow", "PUT", seconds=5.0)
    with pytest.raises(StagingDown, match=r"does not answer \(ReadTimeoutError\)"):
        put(staging, b"x")
    assert [one.method for one in proxy.requests] == ["PUT"] * 2
    proxy.heal()


def test_a_service_that_is_not_reached_is_given_up_after_its_time(tmp_path: Path) -> None:
    # 192.0.2.0/24 leads nowhere (RFC 5737); a machine without a route says so at once.
    staging = staging_at(f"http://192.0.2.1:{free_port()}", tmp_path, attempts=1, connect_timeout_seconds=0.5)
    with pytest.raises(StagingDown, match=r"does not answer \((ConnectTimeoutError|EndpointConnectionError)\)"):
        staging.check()


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_request_is_made_as_often_as_configured(proxy: FaultyS3, tmp_path: Path, attempts: int) -> None:
    staging = staging_at(proxy.endpoint, tmp_path, attempts=attempts)
    staging.check()
    proxy.requests.clear()
    proxy.fail("slowdown", "PUT")
    with pytest.raises(StagingDown, match="SlowDown"):
        put(staging, b"x")
    assert len(proxy.requests) == attempts
    # Slower and slower where the service asks for it: botocore's adaptive mode keeps to a rate from then on.
    assert make_client(staging._options, None).meta.config.retries["mode"] == "adaptive"


def test_a_clock_that_is_wrong_is_called_so(proxy: FaultyS3, tmp_path: Path) -> None:
    staging = staging_at(proxy.endpoint, tmp_path)
    proxy.fail("skewed")
    with pytest.raises(StagingDown, match=r"the clocks of this node and of .* differ \(RequestTimeTooSkewed\)"):
        staging.check()


@pytest.mark.parametrize("puts_at_once", [4, 24])
def test_puts_at_once_keep_their_connections(proxy: FaultyS3, tmp_path: Path, puts_at_once: int) -> None:
    staging = staging_at(proxy.endpoint, tmp_path, puts_at_once=puts_at_once)
    staging.check()
    proxy.connections = 0
    together = threading.Barrier(puts_at_once)

    def some(worker: int) -> None:
        for number in range(5):
            together.wait(30)  # all at once, each time
            put(staging, b"x", KEY.replace("11", f"{worker:02}{number}"))

    with ThreadPoolExecutor(puts_at_once) as pool:
        list(pool.map(some, range(puts_at_once)))
    assert 0 < proxy.connections <= puts_at_once


@pytest.mark.parametrize("first", [True, False], ids=["never put before", "put before"])
def test_puts_that_come_when_the_storage_is_back_wait_for_the_one_that_tries(
    proxy: FaultyS3, tmp_path: Path, first: bool
) -> None:
    """Else a spool that filled would be tried again only after the sweep's pause."""
    staging = staging_at(proxy.endpoint, tmp_path, attempts=1)
    if not first:
        put(staging, b"x")
    proxy.fail("no-bucket")  # not SlowDown, after which the client itself goes slowly
    with pytest.raises(StagingDown):
        put(staging, b"x", KEY.replace("11", "12"))
    staging._storage._down[""] = staging._storage._down[""]._replace(until=0.0)
    proxy.fail("slow", times=1, seconds=0.2)
    proxy.requests.clear()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: put(staging, b"x", KEY.replace("11", f"2{number}")), range(8)))
    assert [one.fault for one in proxy.requests].count("slow") == 1
    assert len(list(staging.scan())) == 9 - first


def test_a_bucket_is_never_made_unasked(server: SeaweedFS, tmp_path: Path) -> None:
    options = Staging(kind="s3", bucket="unit-absent", endpoint=server.endpoint)
    staging = S3Staging(options, lambda: StorageKeys(*KEYS), scratch=tmp_path)
    for ask in (staging.check, lambda: put(staging, b"x"), lambda: list(staging.scan())):
        with suppress(StagingError):
            ask()
        staging._storage._down.clear()  # not to wait
    assert "unit-absent" not in [one["Name"] for one in server.client().list_buckets()["Buckets"]]
