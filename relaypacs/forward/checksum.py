"""CRC-32C of mapped datasets, in strides: what was received is what is sent, or it is not sent."""

from __future__ import annotations

from collections.abc import Iterator

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


def checked(buffers: Iterator[bytes | memoryview], dataset: memoryview, crc32c: int) -> Iterator[bytes | memoryview]:
    """Pass on `buffers`, of which the memoryviews are `dataset` in order, checking it on the way.

    The stride that a buffer ends in is summed before the buffer is passed on, so Corrupt comes before the last one.
    """
    found = summed = passed = 0
    total = len(dataset)
    for buffer in buffers:
        if isinstance(buffer, memoryview):
            passed += len(buffer)
            while summed < passed:
                end = min(summed + _STRIDE_BYTES, total)
                found = crc32c_of(dataset[summed:end], found)
                summed = end
            if passed == total and found != crc32c:
                raise Corrupt
        yield buffer
