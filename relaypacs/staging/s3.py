"""Staging in a bucket: S3, or what speaks it (MinIO, SeaweedFS). The same keys as in a folder, behind a prefix.

A put carries the SHA-256 that the service compares, `If-None-Match: *`, the configured encryption, and metadata: the
file's SHA-256 and the facts that rows need. It is durable when it returns. What is read is compared with that SHA-256
before anyone sees it. Nothing is ever overwritten by other bytes, nothing deleted but by `delete`. While the service
is down every call is a StagingDown; the sweep tries again. Uploads that a killed process left are aborted by `scan`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import math
import os
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from relaypacs.config.secrets import StorageKeys
from relaypacs.config.stores import Staging as Options
from relaypacs.errors import StagingError
from relaypacs.failpoint import reach
from relaypacs.staging import s3_facts
from relaypacs.staging.keys import check_key, is_staged_key
from relaypacs.staging.protocol import StagedFacts, StagedObject
from relaypacs.staging.s3_bucket import check
from relaypacs.staging.s3_client import Storage, code_of
from relaypacs.staging.s3_read import Reading

NO_LIMIT_BYTES = 1 << 62
_MOST_PARTS = 10_000
_LEFTOVER_SECONDS = 86400
_TAKEN = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "NoSuchUpload"})
"""The last: an upload is over when it is completed, also where the answer was lost."""


class _File(NamedTuple):
    """What is put: its whole name in the bucket, bytes, SHA-256 (hexadecimal) and facts."""

    name: str
    length: int
    sha256: str
    facts: StagedFacts | None


class S3Staging:
    """Staging in the bucket of `options`; connects when first used."""

    def __init__(
        self, options: Options, keys: Callable[[], StorageKeys | None], *, scratch: Path, leave_free_bytes: int = 0
    ) -> None:
        """`keys`: see `Storage`. `scratch`: a folder on local disk for objects that are being read, of whose free
        space `leave_free_bytes` are left alone."""
        self._storage = Storage(options, keys)
        self._options = options
        self._reading = Reading(self._storage, scratch, leave_free_bytes)
        self._checked = False
        self._conditional = True

    def check(self) -> None:
        """Return if the bucket is there and lies where it may. StagingError that says what to mend."""
        self._storage.call("check", lambda client: check(client, self._options))
        self._checked = True

    def put(self, key: str, source_fd: int, offset: int, length: int, facts: StagedFacts | None = None) -> None:
        """Put it in one request, or in parts where it is longer than one; memory: one part."""
        name = self._name(key)
        if not self._checked:
            self.check()
        if length > self._options.part_bytes:
            self._put_parts(name, source_fd, offset, length, facts)
            return
        body = _read(source_fd, offset, length)
        sha = hashlib.sha256(body)
        reach("s3.putting")

        file = _File(name, length, sha.hexdigest(), facts)

        def put(client: Any) -> None:
            self._unless_there(
                client,
                file,
                lambda **only_new: client.put_object(
                    **self._about(file), Body=body, ChecksumSHA256=b64encode(sha.digest()).decode(), **only_new
                ),
            )

        self._storage.call("put", put)
        reach("s3.put")

    def sync(self) -> None:
        """Nothing to do: what `put` returned from is durable."""

    def open(self, key: str) -> contextlib.AbstractContextManager[memoryview]:
        """Fetch it whole: small objects to memory, others to a nameless file on local disk that is mapped.

        DigestMismatch if its bytes are not those that were put.
        """
        return self._reading.open(self._name(key))

    def describe(self, key: str, head_bytes: int) -> StagedObject:
        """Read the object's beginning and its metadata."""
        name = self._name(key)
        return self._storage.call("describe", lambda client: _describe(client, self._options.bucket, name, head_bytes))

    def delete(self, key: str) -> None:
        """Delete the current version; with versioning the bucket keeps it as a former one."""
        name = self._name(key)
        self._storage.call("delete", lambda client: client.delete_object(Bucket=self._options.bucket, Key=name))

    def scan(self) -> Iterator[tuple[str, int]]:
        """List the bucket below the prefix; also aborts multipart uploads of ours that are older than a day."""
        start = f"{self._options.prefix}/" if self._options.prefix else ""
        self._storage.call("abort", lambda client: self._abort_old(client, start))
        after = ""
        while True:
            asked = {"Bucket": self._options.bucket, "Prefix": start} | ({"StartAfter": after} if after else {})
            page = self._storage.call("list", lambda client, asked=asked: client.list_objects_v2(**asked))  # type: ignore[misc]
            for one in page.get("Contents", ()):
                after = one["Key"]
                with contextlib.suppress(StagingError):  # somebody else's: none of our keys looks like it
                    yield check_key(after.removeprefix(start)), one["Size"]
            if not page.get("IsTruncated"):
                return

    def free_bytes(self) -> int:
        """There is no limit."""
        return NO_LIMIT_BYTES

    def _name(self, key: str) -> str:
        checked = check_key(key)
        return f"{self._options.prefix}/{checked}" if self._options.prefix else checked

    def _about(self, file: _File) -> dict[str, Any]:
        options = self._options
        about: dict[str, Any] = {
            "Bucket": options.bucket,
            "Key": file.name,
            "ContentType": "application/dicom",
            "Metadata": s3_facts.to_metadata(file.sha256, file.facts),
        }
        if options.encryption == "sse-s3":
            about["ServerSideEncryption"] = "AES256"
        elif options.encryption == "sse-kms":
            about["ServerSideEncryption"] = "aws:kms"
            if options.kms_key_id:
                about["SSEKMSKeyId"] = options.kms_key_id
        return about

    def _unless_there(self, client: Any, file: _File, put: Callable[..., object]) -> None:
        """`put(IfNoneMatch="*")`. It is fine if the same is there already: a retry whose first answer was lost.

        The same instance in a file of other File Meta (it came again from another AE title) takes its place.
        """
        try:
            put(**({"IfNoneMatch": "*"} if self._conditional else {}))
            return
        except ClientError as problem:
            if code_of(problem) == "NotImplemented" and self._conditional:
                self._conditional = False
                put()
                return
            if code_of(problem) not in _TAKEN:
                raise
        there = client.head_object(Bucket=self._options.bucket, Key=file.name)
        found: Mapping[str, str] = there.get("Metadata", {})
        if there["ContentLength"] == file.length and found.get(s3_facts.SHA256) == file.sha256:
            return
        if file.facts is None or found.get(s3_facts.DIGEST) != file.facts.digest:
            raise StagingError("staging: another object has this one's key in the bucket, and is not overwritten")
        put()

    def _put_parts(self, name: str, fd: int, offset: int, length: int, facts: StagedFacts | None) -> None:
        part_bytes = max(self._options.part_bytes, math.ceil(length / _MOST_PARTS))
        spans = [(offset + at, min(part_bytes, length - at)) for at in range(0, length, part_bytes)]
        whole = hashlib.sha256()
        for span in spans:
            whole.update(_read(fd, *span))
        file = _File(name, length, whole.hexdigest(), facts)
        bucket = self._options.bucket

        def complete(client: Any, upload: str, parts: list[dict[str, Any]]) -> None:
            self._unless_there(
                client,
                file,
                lambda **only_new: client.complete_multipart_upload(
                    Bucket=bucket, Key=name, UploadId=upload, MultipartUpload={"Parts": parts}, **only_new
                ),
            )

        about = self._about(file) | {"ChecksumAlgorithm": "SHA256"}
        upload = str(self._storage.call("put", lambda client: client.create_multipart_upload(**about)["UploadId"]))
        parts: list[dict[str, Any]] = []
        try:
            for number, span in enumerate(spans, 1):
                parts.append(self._put_part(name, upload, number, _read(fd, *span)))
                reach("s3.part-put")
            self._storage.call("put", lambda client: complete(client, upload, parts))
        finally:
            # After a success, and after "it is there already", there is nothing, or parts that nobody wants.
            with contextlib.suppress(StagingError, BotoCoreError, ClientError):
                self._storage.client().abort_multipart_upload(Bucket=bucket, Key=name, UploadId=upload)
        reach("s3.put")

    def _put_part(self, name: str, upload: str, number: int, body: bytes) -> dict[str, Any]:
        checksum = b64encode(hashlib.sha256(body).digest()).decode()
        answer = self._storage.call(
            "put",
            lambda client: client.upload_part(
                Bucket=self._options.bucket,
                Key=name,
                UploadId=upload,
                PartNumber=number,
                Body=body,
                ChecksumSHA256=checksum,
            ),
        )
        return {"ETag": answer["ETag"], "PartNumber": number, "ChecksumSHA256": checksum}

    def _abort_old(self, client: Any, start: str) -> None:
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=_LEFTOVER_SECONDS)
        bucket = self._options.bucket
        # A service or policy without this listing only keeps leftovers longer; the lifecycle rule ends them.
        with contextlib.suppress(ClientError):
            for one in client.list_multipart_uploads(Bucket=bucket, Prefix=start).get("Uploads", ()):
                if one["Initiated"] < before and is_staged_key(one["Key"].removeprefix(start)):
                    client.abort_multipart_upload(Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"])


def _read(fd: int, offset: int, length: int) -> bytes:
    """`length` bytes of the source. StagingError if it ends early or can't be read."""
    try:
        body = os.pread(fd, length, offset)
        while len(body) < length:
            more = os.pread(fd, length - len(body), offset + len(body))
            if not more:
                raise StagingError("staging: the source ends before the object does")
            body += more
    except OSError as problem:
        raise StagingError(f"staging: put: {problem.strerror or 'failed'}") from problem
    return body


def _describe(client: Any, bucket: str, name: str, head_bytes: int) -> StagedObject:
    answer = client.head_object(Bucket=bucket, Key=name)
    head = b""
    if head_bytes and answer["ContentLength"]:
        answer = client.get_object(Bucket=bucket, Key=name, Range=f"bytes=0-{head_bytes - 1}")
        head = answer["Body"].read()
    length = int(answer.get("ContentRange", "").rpartition("/")[2] or answer["ContentLength"])
    return StagedObject(
        length=length,
        stored_at=answer["LastModified"].timestamp(),
        head=head,
        facts=s3_facts.of_metadata(answer.get("Metadata", {})),
    )
