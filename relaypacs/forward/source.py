"""Where the forward workers read an instance: hot from its spool segment while it is there, else from staging.

In the spool a pin keeps the segment from being freed while its bytes are being sent. A claim is a snapshot: if its
segment was freed meanwhile and it names no staged object yet, SegmentGone says that a fresh claim will.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from relaypacs.errors import DigestMismatch, ObjectMissing, SegmentGone
from relaypacs.forward.sender import Payload
from relaypacs.model import Claim, Location
from relaypacs.spool.reader import SpoolReader
from relaypacs.staging.protocol import Staging


class ByteSource:
    """Reads the claimed instances of this node. Thread-safe."""

    def __init__(self, reader: SpoolReader, staging: Staging) -> None:
        self._reader = reader
        self._staging = staging

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
                file = stack.enter_context(self._staging.open(at.staged_key))
            yield Payload(file, stack.enter_context(_dataset(file, at)), at.dataset_crc32c)

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
