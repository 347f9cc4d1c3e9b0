"""The wire form of DIMSE messages we send (PS3.8 9.3.5, annex E): P-DATA-TF PDUs around bytes that are not copied.

Used by `upper` and by the lanes on both sides. Pure: bytes and views in, buffers out.
"""

from __future__ import annotations

from collections.abc import Iterator

from relaypacs.dicom.pdu import (
    COMMAND,
    LAST,
    MAX_FRAGMENTS,
    P_DATA_TF,
    PDATA_PDV,
    PDV_OVERHEAD_BYTES,
    SMALLEST_MAX_PDU_BYTES,
)

GATHERED_BYTES = 64 << 10
"""A dataset no longer than this is sent in one piece."""
_GROUP_BYTES = 1 << 20
"""Bytes of a dataset gathered into one list at most, and in one PDU."""


def message_groups(
    context_id: int, command: bytes, dataset: memoryview | None, max_pdu_bytes: int
) -> Iterator[list[bytes | memoryview]]:
    """The wire form of one DIMSE message as lists of buffers, each for one `sendmsg`: headers, and views of `dataset`
    that copy nothing. The last fragment comes in the last list, without others of a dataset over `GATHERED_BYTES`.

    `command` is an encoded command set; `dataset` may be None (no dataset). `max_pdu_bytes` is the peer's Maximum
    Length Received, 0 for none; a PDU never says it is longer. Raises ValueError under `SMALLEST_MAX_PDU_BYTES`.
    """
    room = _fragment_bytes(max_pdu_bytes)
    group: list[bytes | memoryview] = [_fragments(context_id, command, room)]
    if dataset is None:
        yield group
        return
    total = len(dataset)
    last = max(0, total - 1) // room * room
    header = PDATA_PDV.pack(P_DATA_TF, room + PDV_OVERHEAD_BYTES, room + 2, context_id, 0)
    stride = room * min(MAX_FRAGMENTS, _GROUP_BYTES // room)
    for start in range(0, last, stride):
        for at in range(start, min(start + stride, last), room):
            group += (header, dataset[at : at + room])
        if total > GATHERED_BYTES:
            yield group
            group = []
    size = total - last
    group += (PDATA_PDV.pack(P_DATA_TF, size + PDV_OVERHEAD_BYTES, size + 2, context_id, LAST), dataset[last:])
    yield group


def encode_message(context_id: int, command: bytes, max_pdu_bytes: int) -> bytes:
    """A DIMSE message without a dataset in its wire form; see `message_groups`."""
    return _fragments(context_id, command, _fragment_bytes(max_pdu_bytes))


def _fragment_bytes(max_pdu_bytes: int) -> int:
    """How much of a command set or dataset a PDU carries: of even length (PS3.7 6.3.1), 1 MiB at most."""
    if max_pdu_bytes and max_pdu_bytes < SMALLEST_MAX_PDU_BYTES:
        raise ValueError(f"the peer takes only {max_pdu_bytes} bytes in a PDU")
    # Unlimited means what we would take ourselves.
    return (min(max_pdu_bytes or 131072, _GROUP_BYTES) - PDV_OVERHEAD_BYTES) & ~1


def _fragments(context_id: int, command: bytes, room: int) -> bytes:
    parts = []
    for start in range(0, len(command) or 1, room):
        part = command[start : start + room]
        control = COMMAND | (LAST if start + room >= len(command) else 0)
        parts += [PDATA_PDV.pack(P_DATA_TF, len(part) + PDV_OVERHEAD_BYTES, len(part) + 2, context_id, control), part]
    return b"".join(parts)
