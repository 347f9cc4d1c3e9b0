"""Reads an association's PDUs from its stream: command sets, datasets as they come, and the other PDUs.

Used by `upper.dul` and by the C-STORE lanes. Memory is one buffer, leased from a pool while bytes flow and given back
after a second of silence; whatever a PDU or an object measures, nothing else grows. Raises `PduError` when the peer
breaks PS3.8, EOFError when it closed, TimeoutError when it is silent, OSError when the connection broke.
"""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relaypacs.dicom.pdu import HEADER, HEADER_BYTES, AbortReason, PduError, PduWalker, Stop, check_other
from relaypacs.failpoint import reach
from relaypacs.upper.stream import PATIENCE_SECONDS, Stream


class Buffers:
    """A last-in-first-out pool of read buffers of one process; at most `keep` idle ones are kept.

    A buffer is a mapping of its own: it costs the pages that were written, and returns them when it is dropped
    (the allocator would keep them).
    """

    def __init__(self, size_bytes: int, keep: int = 8) -> None:
        self.size_bytes = size_bytes
        self._keep = keep
        self._idle: list[memoryview] = []

    def take(self) -> memoryview:
        """A buffer with anything in it."""
        try:
            return self._idle.pop()
        except IndexError:
            return memoryview(mmap.mmap(-1, self.size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def give(self, buffer: memoryview) -> None:
        """Return a buffer that nobody looks at any more."""
        if len(self._idle) < self._keep:
            self._idle.append(buffer)


@dataclass(frozen=True, slots=True)
class Command:
    """A whole command set and the presentation context it came in."""

    context_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Pdu:
    """A PDU that is no P-DATA-TF, header included."""

    kind: int
    data: bytes


class Reader:
    """The one reader of an association's stream. Not thread-safe."""

    def __init__(
        self,
        stream: Stream,
        buffers: Buffers,
        *,
        max_pdu_bytes: int,
        max_command_bytes: int,
        pdu_timeout_seconds: float,
        first: bytes = b"",
    ) -> None:
        """`max_pdu_bytes`: what we announce. `pdu_timeout_seconds`: longest silence within a dataset,
        and longest time for a command set or any other PDU. `first`: bytes
        already received, fewer than a buffer."""
        self.stream = stream
        self._buffers = buffers
        self._walker = PduWalker(max_pdu_bytes)
        self._max_command_bytes = max_command_bytes
        self.pdu_timeout_seconds = pdu_timeout_seconds
        self._view: memoryview | None = None
        self._position = 0
        self._end = 0
        self.associated = True
        """Whether A-ASSOCIATE PDUs are out of place now."""
        self.max_associate_bytes = 1 << 20
        if first:
            self._view = buffers.take()
            self._end = len(first)
            self._view[: self._end] = first

    @property
    def has_bytes(self) -> bool:
        """Whether received bytes wait to be looked at."""
        return self._position < self._end

    def read_command(
        self, timeout_seconds: float, stop_fd: int = -1, stopping: Callable[[], bool] | None = None
    ) -> Command | Pdu | None:
        """The next command set, whole, or the next PDU that is no P-DATA-TF.

        `timeout_seconds`: longest silence before its first byte. None: nothing of it had come when `stopping()` turned
        true or `stop_fd` became readable. A command set over the limit is a `PduError`.
        """
        walker = self._walker
        walker.expect_command()
        parts: list[bytes] = []
        size = 0
        deadline = 0.0
        while True:
            if self._view is not None:
                found: list[memoryview] = []
                self._position, why = walker.walk(self._view, self._position, self._end, found)
                if found:
                    parts.append(bytes(found[0]) if len(found) == 1 else b"".join(found))
                    size += len(parts[-1])
                    if size > self._max_command_bytes:
                        raise PduError(AbortReason.INVALID_PARAMETER, "a command set is over the limit")
                if why is Stop.LAST:
                    return Command(walker.context_id, parts[0] if len(parts) == 1 else b"".join(parts))
                if why is Stop.OTHER:
                    if walker.started:
                        raise PduError(AbortReason.UNEXPECTED_PDU, "a command set is cut by another PDU")
                    return self._read_other(deadline)
                if why is Stop.FULL:
                    continue
            if self.has_bytes or walker.started or not walker.between_pdus:
                deadline = deadline or time.monotonic() + self.pdu_timeout_seconds
                reach("reader.mid-command")
                self._fill(deadline - time.monotonic())
            else:
                if stopping is not None and stopping():
                    return None
                if not self._fill_idle(timeout_seconds, stop_fd):
                    return None

    def read_dataset(
        self,
        context_id: int,
        sink: Callable[[Sequence[memoryview]], None],
        last: Callable[[Sequence[memoryview]], None] | None = None,
        *,
        within_seconds: float = math.inf,
    ) -> Pdu | None:
        """Stream a dataset to `sink` as views, in order, valid only during the call; at most one call per full buffer.

        `within_seconds`: how long it may take in all, besides the longest silence.
        None: its last fragment was read and handed over, to `last` if there is one: those views are valid until more
        is read. A `Pdu`: it was cut by that PDU (A-ABORT).
        """
        walker = self._walker
        walker.expect_dataset(context_id)
        deadline = time.monotonic() + within_seconds
        if self._view is None:
            self._view = self._buffers.take()
        view, capacity = self._view, len(self._view)
        found: list[memoryview] = []
        while True:
            self._position, why = walker.walk(view, self._position, self._end, found)
            if why is Stop.LAST:
                (last or sink)(found)
                return None
            if why is Stop.OTHER:
                return self._read_other(0.0)
            if found and (why is Stop.FULL or self._end == capacity):
                sink(found)
                found = []
            if why is Stop.FULL:
                continue
            reach("reader.mid-dataset")
            self._fill(min(self.pdu_timeout_seconds, deadline - time.monotonic()))

    def _read_other(self, deadline: float) -> Pdu:
        """A PDU that begins at the position and is no P-DATA-TF: checked, then read whole."""
        assert self._view is not None
        kind, length = HEADER.unpack_from(self._view, self._position)
        check_other(kind, length, associated=self.associated, max_associate_bytes=self.max_associate_bytes)
        data = bytearray()
        missing = HEADER_BYTES + length
        while missing:
            take = min(missing, self._end - self._position)
            data += self._view[self._position : self._position + take]
            self._position += take
            missing -= take
            if missing:
                deadline = deadline or time.monotonic() + self.pdu_timeout_seconds
                self._fill(deadline - time.monotonic())
        return Pdu(kind, bytes(data))

    def _fill(self, timeout_seconds: float) -> None:
        """Read more within `timeout_seconds`. Makes room when the buffer is full: earlier views must be done with."""
        assert self._view is not None
        if timeout_seconds <= 0:
            raise TimeoutError("the peer is too slow")  # however much there is to be read
        self._make_room()
        count = self.stream.recv_into(self._view[self._end :], timeout_seconds)
        if count == 0:
            raise EOFError("the peer closed the connection")
        self._end += count

    def _fill_idle(self, timeout_seconds: float, stop_fd: int) -> bool:
        """Read the first bytes of a message: hold the buffer for a second, then only wait. False: told to stop."""
        started = time.monotonic()
        if self._view is None:
            self._view = self._buffers.take()
        self._position = self._end = 0
        count = -1
        if timeout_seconds >= PATIENCE_SECONDS:
            count = self.stream.recv_patient(self._view)
        if count < 0:
            self.give_back()
            if not self.stream.wait_readable(timeout_seconds - (time.monotonic() - started), stop_fd):
                return False
            self._view = self._buffers.take()
            count = self.stream.recv_into(self._view, self.pdu_timeout_seconds)
        if count == 0:
            raise EOFError("the peer closed the connection")
        self._end = count
        return True

    def _make_room(self) -> None:
        assert self._view is not None
        if self._position == self._end:
            if self._end == len(self._view):
                self._position = self._end = 0
        elif self._end == len(self._view):
            left = self._end - self._position
            self._view[:left] = bytes(self._view[self._position : self._end])
            self._position, self._end = 0, left

    def give_back(self) -> None:
        """Return the buffer to its pool; bytes not looked at are lost unless there are none."""
        if self._view is not None:
            self._buffers.give(self._view)
            self._view = None
        self._position = self._end = 0
