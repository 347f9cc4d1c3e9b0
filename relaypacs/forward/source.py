"""Where the forward workers read an instance: hot from its spool segment while it is there, else from staging.

In the spool a pin keeps the segment from being freed while its bytes are being sent. A claim is a snapshot: if its
segment was freed meanwhile and it names no staged object yet, SegmentGone says that a fresh claim will.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from relaypacs.errors import DigestMismatch, ObjectMissing, SegmentGone, StagingDown
from relaypacs.forward.sender import Payload
from relaypacs.model import Claim, Location
from relaypacs.spool.reader import SpoolReader
from relaypacs.staging.protocol import Staging

_LEAST_AWAY_SECONDS, _MOST_AWAY_SECONDS = 5.0, 300.0


class ByteSource:
    """Reads the claimed instances of this node. Thread-safe."""

    def __init__(self, reader: SpoolReader, staging: Staging) -> None:
        self._reader = reader
        self._staging = staging
        self._away_since: float | None = None

    def away_seconds(self) -> float:
        """How long to leave alone what staging can't give now, in seconds: as long as it has been away already, 5 s
        to 5 min, so that a long outage costs few tries and a short one little time."""
        since = self._away_since
        away = 0.0 if since is None else time.monotonic() - since
        return min(max(away, _LEAST_AWAY_SECONDS), _MOST_AWAY_SECONDS)

    @contextmanager
    def read(self, claim: Claim) -> Iterator[Payload]:
        """The instance's bytes for as long as the context lasts.

        Raises SegmentGone (claim it again), ObjectMissing, DigestMismatch (not the length that was stored) and other
        SpoolError or StagingError. The checksum is the sender's to compare, while it sends.
        """
        at = claim.location
        with ExitStack() as stack:
            file = self._hot(at, stack)
            if file is None:
                if at.staged_key is None:
                    raise ObjectMissing(f"the instance is on node {at.node} only")
                file = self._cold(at.staged_key, stack)
            yield Payload(file, stack.enter_context(_dataset(file, at)), at.dataset_crc32c)

    def is_freed(self, claim: Claim) -> bool:
        """Whether the segment that a claim names is there no more, as far as can be told. In this process a pin holds
        it; another, which takes this one for dead, may free it."""
        generation = claim.location.generation
        try:
            return generation is not None and generation not in self._reader.generations()
        except OSError:
            return False

    def _cold(self, key: str, stack: ExitStack) -> memoryview:
        try:
            file = stack.enter_context(self._staging.open(key))
        except StagingDown:
            self._away_since = self._away_since or time.monotonic()
            raise
        self._away_since = None
        return file

    def _hot(self, at: Location, stack: ExitStack) -> memoryview | None:
        """The file in its pinned segment; None if it is to be read from staging."""
        if at.generation is None:
            return None
        with ExitStack() as pinned:
            try:
                pin = pinned.enter_context(self._reader.pin(at.generation))
                file = pinned.enter_context(pin.view(at.file_offset, at.file_length))
            except SegmentGone:
                if at.staged_key is None:
                    raise
                return None
            stack.enter_context(pinned.pop_all())
            return file


def _dataset(file: memoryview, at: Location) -> memoryview:
    start = at.dataset_offset - at.file_offset
    if len(file) != at.file_length or start + at.dataset_length != at.file_length:
        raise DigestMismatch("the stored file does not have the length it was stored with")
    return file[start:]
