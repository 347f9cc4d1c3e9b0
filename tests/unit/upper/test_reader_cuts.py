"""Any cut of any stream of PDUs gives the reader's caller the same events, whatever its buffer holds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from relaypacs.dicom.pdu import PduError
from relaypacs.upper.reader import Buffers, Command, Reader
from relaypacs.upper.stream import Stream
from tests.peers.raw import ABORT, COMMAND, DATA, LAST, RELEASE_RP, RELEASE_RQ, pdu, pdv

Event = tuple[object, ...]


class PiecesStandIn:
    """Stands in for a `Stream`: gives the bytes of a connection in exactly these pieces, then its end."""

    def __init__(self, stream: bytes, cuts: Sequence[int]) -> None:
        edges = [0, *sorted(cuts), len(stream)]
        self._pieces = [stream[a:b] for a, b in itertools.pairwise(edges) if b > a]

    def wait_readable(self, timeout_seconds: float, stop_fd: int = -1) -> bool:
        return True

    def recv_patient(self, view: memoryview) -> int:
        piece = self._pieces.pop(0) if self._pieces else b""
        if len(piece) > len(view):
            self._pieces.insert(0, piece[len(view) :])
            piece = piece[: len(view)]
        view[: len(piece)] = piece
        return len(piece)

    def recv_into(self, view: memoryview, timeout_seconds: float) -> int:
        return self.recv_patient(view)


def events(stream: bytes, cuts: Sequence[int], *, buffer_bytes: int = 4096, first: int = 0) -> list[Event]:
    """What a caller sees that reads a dataset behind every command set whose first byte is odd."""
    source = cast("Stream", PiecesStandIn(stream[first:], [cut - first for cut in cuts if cut > first]))
    reader = Reader(
        source,
        Buffers(buffer_bytes),
        max_pdu_bytes=2048,
        max_command_bytes=512,
        pdu_timeout_seconds=5.0,
        first=stream[:first],
    )
    found: list[Event] = []
    try:
        while True:
            part = reader.read_command(5.0)
            assert part is not None
            if isinstance(part, Command):
                found.append(("command", part.context_id, part.data))
                if part.data[:1] and part.data[0] & 1:
                    dataset = bytearray()
                    cut = reader.read_dataset(part.context_id, lambda views, to=dataset: [to.extend(v) for v in views])  # type: ignore[misc]
                    if cut is None:
                        found.append(("dataset", bytes(dataset)))
                    else:
                        found.append(("cut", cut.kind, cut.data))
            else:
                found.append(("pdu", part.kind, part.data))
    except PduError as error:
        found.append(("broken", int(error.reason), str(error)))
    except EOFError:
        found.append(("end",))
    return found


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Messages and other PDUs in any order, one after another; some of it may be broken."""
    stream = bytearray()
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.integers(0, 5))
        if kind == 0:
            stream += pdu(draw(st.sampled_from((RELEASE_RQ, RELEASE_RP, ABORT))), bytes(4))
            continue
        has_dataset = kind > 2
        parts = draw(st.lists(st.binary(max_size=80), min_size=1, max_size=4))
        items = [
            pdv(3, COMMAND | (LAST if n == len(parts) - 1 else 0), (b"\1" if has_dataset else b"\0") * (n == 0) + part)
            for n, part in enumerate(parts)
        ]
        if has_dataset:
            pieces = draw(st.lists(st.binary(max_size=700), min_size=1, max_size=4))
            items += [pdv(3, LAST if n == len(pieces) - 1 else 0, piece) for n, piece in enumerate(pieces)]
        while items:
            count = draw(st.integers(1, min(2, len(items))))
            stream += pdu(DATA, b"".join(items[:count]))
            items = items[count:]
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 3)))):
        stream[draw(st.integers(0, len(stream) - 1))] = draw(st.integers(0, 255))
    return bytes(stream)


@settings(max_examples=300, deadline=None)
@given(streams(), st.data())
def test_any_cut_gives_the_same_events(stream: bytes, data: st.DataObject) -> None:
    whole = events(stream, ())
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    first = data.draw(st.integers(0, min(len(stream), 20)))
    size = data.draw(st.sampled_from((24, 57, 256)))
    assert events(stream, cuts) == whole
    assert events(stream, cuts, buffer_bytes=size, first=first) == whole


@settings(max_examples=60, deadline=None)
@given(streams())
def test_byte_by_byte(stream: bytes) -> None:
    assert events(stream, range(len(stream)), buffer_bytes=40) == events(stream, ())
