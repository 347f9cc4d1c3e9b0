"""What a bucket keeps whatever we do: versions, locked objects, archived ones; and what others have in it."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relaypacs.config.secrets import StorageKeys
from relaypacs.config.stores import Staging
from relaypacs.errors import ObjectArchived, StagingDown, StagingError
from relaypacs.staging import s3
from relaypacs.staging.keys import staged_key
from relaypacs.staging.s3 import S3Staging
from tests.peers.faulty_s3 import FaultyS3
from tests.peers.seaweed import KEYS, SeaweedFS

KEY = "2026/01/02/study-00/11-22.dcm"
PART = 5 << 20
serial = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


def staging_at(endpoint: str, bucket: str, scratch: Path, **options: Any) -> S3Staging:
    at = Staging(kind="s3", bucket=bucket, endpoint=endpoint, part_bytes=PART, **options)
    return S3Staging(at, lambda: StorageKeys(*KEYS), scratch=scratch)


def put(staging: S3Staging, content: bytes, key: str = KEY) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        staging.put(key, file.fileno(), 0, len(content))


def content(staging: S3Staging, key: str = KEY) -> bytes:
    with staging.open(key) as view:
        return bytes(view)


@pytest.mark.parametrize("size", [1000, PART + 1000])
def test_a_locked_object_survives_its_deletion_and_may_come_again(server: SeaweedFS, tmp_path: Path, size: int) -> None:
    client = server.client()
    bucket = f"locked-{next(serial)}"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    retention = {"Mode": "COMPLIANCE", "Days": 1}
    client.put_object_lock_configuration(
        Bucket=bucket,
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}},
    )
    staging = staging_at(server.endpoint, bucket, tmp_path)
    body = os.urandom(size)
    put(staging, body)
    put(staging, body)  # as after a lost answer
    (version,) = client.list_object_versions(Bucket=bucket)["Versions"]
    if size < PART:
        # The server forgets the bucket's default for an object of several parts; S3 does not.
        found = client.get_object_retention(Bucket=bucket, Key=KEY, VersionId=version["VersionId"])
        assert found["Retention"]["Mode"] == "COMPLIANCE"
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            client.delete_object(Bucket=bucket, Key=KEY, VersionId=version["VersionId"])
    for _ in range(2):  # a deletion is repeated where it is not known whether it was done
        staging.delete(KEY)
        assert list(staging.scan()) == []
    kept = client.get_object(Bucket=bucket, Key=KEY, VersionId=version["VersionId"])["Body"].read()
    assert kept == body
    put(staging, body)
    assert content(staging) == body
    assert len(client.list_object_versions(Bucket=bucket)["Versions"]) == 2


@pytest.mark.parametrize("chain", [False, True])
def test_an_archived_object_is_no_trouble_of_the_storage(
    server: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chain: bool
) -> None:
    """The refusal is a 403, as those of rights are: nothing else may wait for it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS[1])
    bucket = server.bucket(f"unit-{next(serial)}")
    with FaultyS3(server.s3_port) as proxy:
        at = Staging(kind="s3", bucket=bucket, endpoint=proxy.endpoint)
        staging = S3Staging(at, lambda: None if chain else StorageKeys(*KEYS), scratch=tmp_path)
        other = KEY.replace("11", "12")
        put(staging, b"archived")
        put(staging, b"other", other)
        proxy.requests.clear()
        proxy.fail("archived", "GET", times=1)
        with pytest.raises(ObjectArchived, match="restore it in the bucket"):
            content(staging)
        assert len(proxy.requests) == 1, "neither repeated nor tried with other credentials"
        assert content(staging, other) == b"other"
        assert content(staging) == b"archived"


def test_what_may_not_be_deleted_can_still_be_put_and_read(server: SeaweedFS, tmp_path: Path) -> None:
    bucket = server.bucket(f"unit-{next(serial)}")
    with FaultyS3(server.s3_port) as proxy:
        staging = staging_at(proxy.endpoint, bucket, tmp_path)
        put(staging, b"x")
        proxy.fail("denied", "DELETE")
        for _ in range(2):
            with pytest.raises(StagingDown, match="does not allow delete on bucket"):
                staging.delete(KEY)
            put(staging, b"y", KEY.replace("11", "12"))
            assert content(staging) == b"x"


def test_only_old_uploads_of_our_own_are_aborted(
    server: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = server.client()
    ours = staged_key(b"k", study_uid="1", sop_instance_uid="2", digest="ab" * 32, date="20260102")
    for prefix in ("", "relay"):
        bucket = server.bucket(f"unit-{next(serial)}")
        mine = f"{prefix}/{ours}" if prefix else ours
        others = ["backup/2026.tar", f"other/{ours}", f"x{ours}"]
        for key in (mine, *others):
            client.create_multipart_upload(Bucket=bucket, Key=key)

        def left(bucket: str = bucket) -> list[str]:
            return sorted(one["Key"] for one in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()))

        staging = staging_at(server.endpoint, bucket, tmp_path, prefix=prefix)
        assert list(staging.scan()) == []
        assert left() == sorted([mine, *others]), "somebody may still be putting it"
        with monkeypatch.context() as later:
            later.setattr(s3, "_LEFTOVER_SECONDS", -60)
            assert list(staging.scan()) == []
        assert left() == sorted(others)


def test_an_upload_that_is_over_was_completed(server: SeaweedFS, tmp_path: Path) -> None:
    """Amazon forgets an upload with its completion: who repeats it, for the answer was lost, is told there is none."""
    bucket = server.bucket(f"unit-{next(serial)}")
    body = os.urandom(2 * PART)
    with FaultyS3(server.s3_port) as proxy:
        staging = staging_at(proxy.endpoint, bucket, tmp_path)
        staging.check()
        proxy.fail("upload-over", "POST", times=1, path="?uploadId=")
        put(staging, body)
        assert len([one for one in proxy.requests if "?uploads" in one.path]) == 1
    assert server.objects(bucket) == {KEY: len(body)}


def test_an_upload_is_not_begun_for_a_source_that_ends_early(server: SeaweedFS, tmp_path: Path) -> None:
    bucket = server.bucket(f"unit-{next(serial)}")
    staging = staging_at(server.endpoint, bucket, tmp_path)
    with tempfile.TemporaryFile() as file:
        file.truncate(PART + 100)
        with pytest.raises(StagingError, match="ends before"):
            staging.put(KEY, file.fileno(), 0, 2 * PART)
    assert server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
