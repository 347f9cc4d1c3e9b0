"""Where the forward workers read an instance: hot from its spool segment while it is there, else from staging.

In the spool a pin keeps the segment from being freed while its bytes are being sent. A claim is a snapshot: if its
segment was freed meanwhile and it names no staged object yet, SegmentGone says that a fresh claim will.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
        if at.generation is not None:
            try:
                pin = self._reader.pin(at.generation)
            except SegmentGone:
                if at.staged_key is None:
                    raise
            else:
                with pin, pin.view(at.file_offset, at.file_length) as file, _dataset(file, at) as dataset:
                    yield Payload(file, dataset, at.dataset_crc32c)
                return
        if at.staged_key is None:
            raise ObjectMissing(f"the instance is on node {at.node}, in no staging this node can read")
        with self._staging.open(at.staged_key) as file, _dataset(file, at) as dataset:
            yield Payload(file, dataset, at.dataset_crc32c)


def _dataset(file: memoryview, at: Location) -> memoryview:
    start = at.dataset_offset - at.file_offset
    if len(file) != at.file_length or start + at.dataset_length != at.file_length:
        raise DigestMismatch("the stored file does not have the length it was stored with")
    return file[start:]
