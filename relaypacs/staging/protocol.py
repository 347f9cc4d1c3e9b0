"""What a place for staged objects can do. The stager puts, syncs and deletes; the forward workers open; sweep scans.

An object is one whole DICOM Part 10 file under a key of `staging.keys`, immutable once visible. Every adapter passes
`tests/contract/test_staging.py`. Whatever fails raises StagingError (ObjectMissing where the object isn't there).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class Staging(Protocol):
    """One adapter; thread-safe."""

    def put(self, key: str, source_fd: int, offset: int, length: int) -> None:
        """Copy `length` bytes at `offset` of `source_fd` to `key`: visible whole or not at all.

        Durable only after `sync`. The descriptor's own position is not used. Putting a key again replaces it by the
        same bytes. StagingError if the source ends early, the key is no key, or the storage fails.
        """

    def sync(self) -> None:
        """Return when all that was put before this call is durable.

        StagingError if anything put since the last `sync` that succeeded may be lost: all of it has to be put again.
        """

    def open(self, key: str) -> AbstractContextManager[memoryview]:
        """The whole file, read-only, for as long as the context lasts. ObjectMissing, StagingError."""

    def delete(self, key: str) -> None:
        """Remove the object if it is there, and the folders it leaves empty where the adapter has folders."""

    def scan(self) -> Iterator[tuple[str, int]]:
        """Every object as (key, length in bytes), in the order of keys. Objects put or deleted meanwhile may show."""

    def free_bytes(self) -> int:
        """How much more can be put, in bytes; a very large number where there is no limit."""
