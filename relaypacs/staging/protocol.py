"""What a place for staged objects can do. The stager puts, syncs and deletes; the forward workers open; reconciling
and rebuilding the job table scan and describe.

An object is one whole DICOM Part 10 file under a key of `staging.keys`, immutable once visible. Every adapter passes
`tests/contract/test_staging.py`. Whatever fails raises StagingError (ObjectMissing where the object isn't there).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StagedFacts:
    """What rows need of an object and its file does not say. Kept beside the bytes where the adapter can.

    AE titles and `peer` are a sender's text, not only ASCII. No UID, no name: they may show to whoever lists.
    """

    digest: str
    """SHA-256 (hexadecimal) of the dataset and its transfer syntax UID, as intake computed it; empty if not kept."""
    association_id: str
    calling_ae: str
    called_ae: str
    peer: str
    received_at: float
    """Seconds since the epoch, UTC."""


@dataclass(frozen=True, slots=True)
class StagedObject:
    """An object described without being read whole."""

    length: int
    """Bytes of the whole file."""
    stored_at: float
    """When the storage took it (seconds since the epoch, UTC; the storage's clock)."""
    head: bytes
    """The first bytes of the file: as many as were asked for, or all."""
    facts: StagedFacts | None
    """None where the storage keeps none, or the object was put without."""


class Staging(Protocol):
    """One adapter; thread-safe."""

    def put(self, key: str, source_fd: int, offset: int, length: int, facts: StagedFacts | None = None) -> None:
        """Copy `length` bytes at `offset` of `source_fd` to `key`: visible whole or not at all.

        `facts` are kept beside the bytes where the adapter can. Durable only after `sync`. The descriptor's own
        position is not used. Putting a key again replaces it by the same bytes. StagingError if the source ends early,
        the key is no key, or the storage fails.
        """

    def sync(self) -> None:
        """Return when all that was put before this call is durable.

        StagingError if anything put since the last `sync` that succeeded may be lost: all of it has to be put again.
        """

    def open(self, key: str) -> AbstractContextManager[memoryview]:
        """The whole file, read-only, for as long as the context lasts. ObjectMissing, StagingError."""

    def describe(self, key: str, head_bytes: int) -> StagedObject:
        """The object's length, age, facts and first `head_bytes` bytes. ObjectMissing, StagingError."""

    def delete(self, key: str) -> None:
        """Remove the object if it is there, and the folders it leaves empty where the adapter has folders."""

    def scan(self) -> Iterator[tuple[str, int]]:
        """Every object as (key, length in bytes), in the order of keys. Objects put or deleted meanwhile may show."""

    def free_bytes(self) -> int:
        """How much more can be put, in bytes; a very large number where there is no limit."""
