"""CRC-32C of mapped datasets, in strides: what was received is what is sent, or it is not sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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


def checked(buffers: Iterable[bytes | memoryview], dataset: memoryview, crc32c: int) -> Iterator[bytes | memoryview]:
    """Pass on `buffers`, of which the memoryviews are `dataset` in order, checking it on the way.

    Bytes are summed after they have left, and the last fragment is a copy: whatever is written over them meanwhile (a
    sender that slept while its segment was used again) shows, and Corrupt comes before the last fragment. An empty
    buffer asks the taker to send what it has gathered.
    """
    found = summed = passed = 0
    total = len(dataset)
    header: bytes | None = None
    for buffer in buffers:
        if not isinstance(buffer, memoryview):
            if header is not None:
                yield header
            header = buffer
            continue
        start, passed = passed, passed + len(buffer)
        is_last = passed == total
        if (is_last and start) or start - summed >= _STRIDE_BYTES:
            yield b""
            found, summed = crc32c_of(dataset[summed:start], found), start
        last = bytes(buffer) if is_last else b""
        if is_last and crc32c_of(last, found) != crc32c:
            raise Corrupt
        if header is not None:
            yield header
        header = None
        yield last or buffer
    if header is not None:
        yield header
