"""CRC-32C of mapped datasets, in strides: what was received is what is sent, or it is not sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from crc32c import crc32c as crc32c_of

_STRIDE_BYTES = 1 << 20


def intact(dataset: memoryview, crc32c: int) -> bool:
    """Whether a dataset still has the checksum it was received with. Memory: one stride."""
    found = 0
    for start in range(0, len(dataset), _STRIDE_BYTES):
        found = crc32c_of(dataset[start : start + _STRIDE_BYTES], found)
    return found == crc32c


class Corrupt(Exception):
    """The dataset is not what was received; raised before its last fragment was handed out."""


def checked(
    groups: Iterable[Sequence[bytes | memoryview]], dataset: memoryview, crc32c: int
) -> Iterator[Sequence[bytes | memoryview]]:
    """Pass on `groups` of buffers, of which the memoryviews are `dataset` in order, checking it on the way.

    Bytes are summed after they have left, which is when the next group is asked for, and those of the last group are
    copies: whatever is written over them meanwhile (a sender that slept while its segment was used again) shows, and
    Corrupt comes before the last fragment leaves.
    """
    found = passed = 0
    total = len(dataset)
    for group in groups:
        start = passed
        for buffer in group:
            if isinstance(buffer, memoryview):
                passed += len(buffer)
        if passed < total:
            yield group
            found = crc32c_of(dataset[start:passed], found)
            continue
        copies = [bytes(buffer) for buffer in group]
        for copy, buffer in zip(copies, group, strict=True):
            if isinstance(buffer, memoryview):
                found = crc32c_of(copy, found)
        if found != crc32c:
            raise Corrupt
        yield copies
