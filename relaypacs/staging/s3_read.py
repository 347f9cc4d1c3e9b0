"""An object of a bucket on its way to a reader: fetched whole, compared with its SHA-256, shown as memory.

Up to 1 MiB it is held in memory, beyond that in a nameless file on local disk that is mapped, so memory stays bounded
whatever the object's size. A transfer that breaks off goes on where it was (a ranged read of the same version). Bytes
that are not those that were put are fetched once more; if they differ again: DigestMismatch, a log line, a metric.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import ConnectionError as ConnectionFailed
from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError
from prometheus_client import Counter

from relaypacs import log
from relaypacs.errors import DigestMismatch, StagingError
from relaypacs.staging.s3_client import Storage
from relaypacs.staging.s3_facts import SHA256

IN_MEMORY_BYTES = 1 << 20
_CHUNK_BYTES = 256 << 10
_BROKEN_OFF = (ConnectionFailed, HTTPClientError, IncompleteReadError, ResponseStreamingError)
_DAMAGED = Counter(
    "relaypacs_staging_damaged_total", "Staged objects whose bytes were not those that were stored: never sent."
)


class Reading:
    """Fetches objects; `scratch` is the folder for those that are too big for memory."""

    def __init__(self, storage: Storage, scratch: Path, leave_free_bytes: int) -> None:
        self._storage, self._scratch, self._leave_free_bytes = storage, scratch, leave_free_bytes

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[memoryview]:
        """The object's bytes, read-only, for as long as the context lasts."""
        with contextlib.ExitStack() as stack:
            yield self._storage.call("get", lambda client: self._fetch(client, name, stack))

    def _fetch(self, client: Any, name: str, stack: contextlib.ExitStack) -> memoryview:
        for _ in range(2):
            with contextlib.ExitStack() as tried:
                target = _Target(self._scratch, self._leave_free_bytes)
                tried.callback(target.close)
                if self._transfer(client, name, target):
                    stack.enter_context(tried.pop_all())
                    return target.view()
        _DAMAGED.inc()
        log.event(
            log.CRITICAL,
            "staged-object-damaged",
            "A staged object's bytes are not those that were stored; it is not sent. Look at the bucket.",
            key=name,
        )
        raise DigestMismatch("the staged bytes are not those that were stored")

    def _transfer(self, client: Any, name: str, target: _Target) -> bool:
        """Bring the object into `target`, over as many requests as it takes; whether its SHA-256 is right."""
        sha, etag, total, expected, failures = hashlib.sha256(), "", -1, "", 0
        while True:
            before = target.length
            part = {"Range": f"bytes={before}-", "IfMatch": etag} if before else {}
            try:
                answer = client.get_object(Bucket=self._storage.staging.bucket, Key=name, **part)
                if total < 0:
                    total, etag = answer["ContentLength"], answer["ETag"]
                    expected = answer.get("Metadata", {}).get(SHA256, "")
                    target.reserve(total)
                with contextlib.closing(answer["Body"]) as body:
                    while target.length < total and (chunk := body.read(min(_CHUNK_BYTES, total - target.length))):
                        sha.update(chunk)
                        target.write(chunk)
                if target.length >= total:
                    return not expected or sha.hexdigest() == expected
            except _BROKEN_OFF:
                failures = 1 if target.length > before else failures + 1
                if failures >= self._storage.staging.attempts:
                    raise
            else:  # the service sent less than it announced, and no error
                failures = 1 if target.length > before else failures + 1
                if failures >= self._storage.staging.attempts:
                    raise StagingError("object storage: it sends less of an object than it announces")


class _Target:
    """Where the bytes go: memory, or a nameless file. `length` is how many are there."""

    def __init__(self, scratch: Path, leave_free_bytes: int) -> None:
        self.length = 0
        self._scratch, self._leave_free_bytes = scratch, leave_free_bytes
        self._memory = bytearray()
        self._fd = -1
        self._open: list[memoryview | mmap.mmap] = []

    def reserve(self, total: int) -> None:
        """Make room for `total` bytes. StagingError if the disk has too little."""
        if total <= IN_MEMORY_BYTES:
            return
        try:
            about = os.statvfs(self._scratch)
            if about.f_bavail * about.f_frsize - total < self._leave_free_bytes:
                raise StagingError("staging: the local disk has no room for the object while it is being read")
            fd, path = tempfile.mkstemp(dir=self._scratch, prefix="read.")
            self._fd = fd
            os.unlink(path)
            os.posix_fallocate(fd, 0, total)  # else a full disk would be a SIGBUS
        except OSError as problem:
            raise StagingError(f"staging: the object can't be kept while it is read: {problem.strerror}") from problem

    def write(self, chunk: bytes) -> None:
        """Append."""
        if self._fd < 0:
            self._memory += chunk
        else:
            try:
                os.pwrite(self._fd, chunk, self.length)
            except OSError as problem:
                raise StagingError(f"staging: a fetched object can't be written: {problem.strerror}") from problem
        self.length += len(chunk)

    def view(self) -> memoryview:
        """All of it, read-only."""
        if self._fd < 0:
            return memoryview(self._memory).toreadonly()
        mapping = mmap.mmap(self._fd, self.length, access=mmap.ACCESS_READ)
        shown = memoryview(mapping)
        self._open += [shown, mapping]
        return shown

    def close(self) -> None:
        """Give everything back; views that others still hold keep the mapping until they go."""
        with contextlib.suppress(BufferError):
            for one in self._open:
                one.release() if isinstance(one, memoryview) else one.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
