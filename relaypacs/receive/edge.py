"""The edge: accepts connections, reads each A-ASSOCIATE-RQ within bounds, admits it, and only then spends a thread.

One selectors loop per receive process, run by `receive.process`. A connection that has not asked for an association
costs a file descriptor and the bytes it sent; nobody can stall the loop, and where too many wait, the one that has
waited longest goes. Whoever is refused gets the standard's answer, one log line and a metric; a bare connect and close
(a load balancer's) is a debug line. What comes before DICOM, TLS and the PROXY protocol, is `receive.opening`.
"""

from __future__ import annotations

import resource
import selectors
import socket
import time
from collections.abc import Sequence

from prometheus_client import Gauge

from relaypacs import log
from relaypacs.config.model import Caller
from relaypacs.dicom.pdu import (
    HEADER_BYTES,
    AbortReason,
    AssociateHead,
    PduError,
    read_associate_head,
    whole_request,
)
from relaypacs.failpoint import reach
from relaypacs.policy.admission import Admitted, Rejected
from relaypacs.receive.certificates import Certificates
from relaypacs.receive.doors import Door, Doors
from relaypacs.receive.draining import SLACK_SECONDS
from relaypacs.receive.limits import CONNECTIONS_OF_ADDRESS
from relaypacs.receive.opening import NotOpened, Opening, tell_not_opened
from relaypacs.receive.request import decide, overload, tell_broken, tell_rejected
from relaypacs.receive.room import Room
from relaypacs.receive.running import Running
from relaypacs.receive.serving import Serving
from relaypacs.receive.unasked import Unasked
from relaypacs.receive.waiting import Phase, Queues, Waiting, spoken, timeouts_of

CONNECTIONS_OPEN = Gauge(
    "relaypacs_connections_open", "Connections open now, with or without association.", multiprocess_mode="livesum"
)

_READ_BYTES = 65536
_MOST_SECURE = 512
"""Connections with TLS and without an association: each costs some 50 KiB."""
_MAX_WAITING_BYTES = 64 << 20
"""Bytes of unfinished association requests a process holds in all; beyond, the one that brings more is aborted."""
_MOST_WAITING = 4096
"""Connections without an association a process holds, or half its file descriptors if that is less."""
_TIDY_SECONDS = 10.0
_QUIET_TIDIES = 2
"""The spool may seal what it holds unused, while there are associations and twice after (once may be too soon)."""
_TIDIES_AFTER_REFUSAL = 8
"""A refusal is noted in the spool, and once more a minute later if it was repeated."""
_MOST_REFUSED = 256
"""Refused connections whose close a process awaits; beyond, the oldest is closed at once."""


class Edge:
    """The accept loop of one receive process."""

    def __init__(
        self,
        room: Room,
        callers: Sequence[Caller],
        listeners: Sequence[socket.socket],
        *,
        tls_listeners: Sequence[socket.socket] = (),
        certificates: Certificates | None = None,
        tls_handshake_timeout_seconds: float = 0.0,
    ) -> None:
        """`certificates` and the timeout are for `tls_listeners`."""
        self._room = room
        self._callers = callers
        self._certificates = certificates
        self._opening = Opening(room.receive.proxy_from, certificates)
        self._timeouts = {Phase.HANDSHAKE: tls_handshake_timeout_seconds, **timeouts_of(room.receive)}
        self._renewed: tuple[Room, Sequence[Caller]] | None = None
        self._secure = 0
        self._selector = selectors.DefaultSelector()
        self._doors = Doors(self._selector, listeners, tls_listeners, room.limits.has_most)
        self._queues = Queues()
        self._waiting_bytes = 0
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_waiting = _MOST_WAITING if files == resource.RLIM_INFINITY else min(_MOST_WAITING, files // 2)
        self._tidy_at: float | None = None
        self._tidies_left = 0
        self._running = Running()
        self._unasked = Unasked()

    def run(self) -> None:
        """Serve until the room is told to stop, then close the listeners and what has no association yet."""
        self._selector.register(self._room.stop_fd, selectors.EVENT_READ, None)
        self._doors.open()
        if self._certificates is not None:
            self._certificates.begin(time.monotonic())
        while not self._room.stopping():
            ready = self._selector.select(self._patience())
            self._take_renewed()
            for key, _ in ready:
                if isinstance(key.data, Waiting):
                    self._readable(key.data)
                elif isinstance(key.data, Door):
                    self._accept(key.data)
            self._expire(time.monotonic())
        for waiting in self._queues:
            self._close(waiting)
        self._unasked.tell()
        self._doors.close()
        self._selector.close()

    def renew(self, room: Room, callers: Sequence[Caller]) -> None:
        """From another thread: use these for whatever comes next; associations that run keep what they have."""
        self._renewed = room, callers

    def _take_renewed(self) -> None:
        if self._renewed is not None:
            (self._room, self._callers), self._renewed = self._renewed, None
            self._timeouts |= timeouts_of(self._room.receive)

    def drain(self, grace_seconds: float) -> bool:
        """After `run`: wait for associations to end; abort those that have not after the grace. Whether all ended."""
        return self._running.drain(grace_seconds)

    # Connections

    def _patience(self) -> float | None:
        look_at = self._certificates.look_at if self._certificates is not None else None
        ats = (self._queues.next_deadline(), self._doors.again_at, self._tidy_at, look_at, self._room.draining.look_at)
        deadlines = [at for at in (*ats, self._unasked.tell_at) if at is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _accept(self, door: Door) -> None:
        if door.tls and self._certificates is not None:
            self._certificates.look(time.monotonic())
        for sock, host, port in self._doors.accept(door):
            proxied = self._opening.is_balancer(host)
            phase = Phase.HEADER if proxied else Phase.HANDSHAKE if door.tls else Phase.REQUEST
            waiting = Waiting(sock, host, spoken(host, port), phase, self._deadline(phase), tls=door.tls)
            self._queues.add(waiting)
            self._selector.register(sock, selectors.EVENT_READ, waiting)
            if proxied or self._counts(waiting):  # a balancer's client is counted once it is known
                self._readable(waiting)  # the request has often come with the connection
                if len(self._queues) > self._most_waiting:
                    self._displace(next(iter(self._queues.refused() or self._queues.silent())))

    def _counts(self, waiting: Waiting) -> bool:
        """Whether a new connection is within the limits; if not, one that waits silently goes, or else this one."""
        word = self._room.limits.connect(waiting.host)
        if word is not None:
            same = word == CONNECTIONS_OF_ADDRESS
            others = (one for one in self._queues.silent() if one.counted)
            silent = (one for one in others if not same or one.host == waiting.host)
            longest = next(silent, None)
            if longest is not None:
                self._displace(longest)
                word = self._room.limits.connect(waiting.host)
        if word is None:
            CONNECTIONS_OPEN.inc()
            waiting.counted = True
            return True
        answer = tell_rejected(self._room, overload(word), None, waiting)
        self._refuse(waiting, b"" if waiting.tls else answer)
        return False

    def _displace(self, waiting: Waiting) -> None:
        """Close one that has had its answer, or that has waited longest: who means it asks when it connects."""
        self._unasked.displaced(waiting)
        self._close(waiting)

    def _expire(self, now: float) -> None:
        for waiting in self._queues.expired(now):
            self._unasked.timed_out(waiting)
            self._close(waiting)
        self._unasked.tell(now)
        self._room.draining.look_if_due(now)
        if self._certificates is not None:
            self._certificates.look(now)
        if self._doors.again_at is not None and self._doors.again_at <= now:
            self._doors.open()
        if self._tidy_at is not None and self._tidy_at <= now + SLACK_SECONDS:
            self._tidies_left = _QUIET_TIDIES if self._running.any() else self._tidies_left - 1
            self._tidy_at = now + _TIDY_SECONDS if self._tidies_left > 0 else None
            self._room.spool.refusal()

    def _close(self, waiting: Waiting) -> None:
        self._forget(waiting)
        waiting.sock.close()
        if waiting.counted:
            self._disconnected(waiting.host)

    def _disconnected(self, host: str) -> None:
        CONNECTIONS_OPEN.dec()
        self._room.limits.disconnect(host)

    def _forget(self, waiting: Waiting) -> None:
        self._selector.unregister(waiting.sock)
        self._queues.remove(waiting)
        self._secure -= waiting.channel is not None
        if waiting.phase is Phase.REQUEST:
            self._waiting_bytes -= len(waiting.received)

    def _readable(self, waiting: Waiting) -> None:
        if waiting.sock.fileno() < 0:
            return  # displaced by another of the same turn
        try:
            data = waiting.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._unasked.closed(waiting)
            self._close(waiting)
        elif not waiting.refused:
            try:
                self._go_on(waiting, data)
            except PduError as error:
                self._refuse(waiting, tell_broken(self._room, error, waiting))
            except NotOpened as error:
                tell_not_opened(self._room, error, waiting)
                self._refuse(waiting, error.last_words)
            except (EOFError, OSError):
                self._unasked.closed(waiting)
                self._close(waiting)

    def _go_on(self, waiting: Waiting, data: bytes) -> None:
        """Bytes have come. Raises `PduError`, `NotOpened`, EOFError and OSError."""
        if waiting.phase is Phase.HEADER:
            rest = self._opening.header(waiting, data)
            if rest is None or not self._counts(waiting):
                return
            self._await(waiting, Phase.HANDSHAKE if waiting.tls else Phase.REQUEST)
            data = rest
        if waiting.phase is Phase.HANDSHAKE and data:
            if waiting.channel is None:
                self._opening.begin_tls(waiting, data)
                self._secure += 1
            if not self._opening.handshake(waiting, data):
                if self._secure > _MOST_SECURE:
                    self._displace(next(self._queues.secure()))
                return
            self._await(waiting, Phase.REQUEST)
            data = b""
        if waiting.channel is not None:
            data = self._opening.decrypt(waiting, data)
        if data:
            waiting.received += data
            self._waiting_bytes += len(data)
            self._request(waiting)

    def _deadline(self, phase: Phase) -> float:
        return time.monotonic() + self._timeouts[phase]

    def _await(self, waiting: Waiting, phase: Phase) -> None:
        self._queues.move(waiting, phase, self._deadline(phase))

    # Requests

    def _request(self, waiting: Waiting) -> None:
        """Look at what has come: nothing to do yet, or a whole request to decide on. Raises `PduError`."""
        received = waiting.received
        whole = whole_request(received, self._room.receive.max_association_request_bytes)
        if not whole:
            reach("edge.mid-request")
            if self._waiting_bytes > _MAX_WAITING_BYTES:
                raise PduError(AbortReason.NOT_SPECIFIED, "too many association requests are unfinished")
            return
        head = read_associate_head(bytes(received[HEADER_BYTES:whole]))
        decision = decide(self._room, self._callers, head, waiting.who())
        if isinstance(decision, Rejected):
            self._refuse(waiting, tell_rejected(self._room, decision, head, waiting))
        else:
            self._serve(waiting, decision, head, bytes(received[whole:]))

    def _refuse(self, waiting: Waiting, last_words: bytes) -> None:
        """Answer, then wait for the peer to close; without an answer close at once."""
        self._tidy_at = self._tidy_at or time.monotonic() + _TIDY_SECONDS
        self._tidies_left = max(self._tidies_left, _TIDIES_AFTER_REFUSAL)
        if waiting.phase is Phase.REQUEST:
            self._waiting_bytes -= len(waiting.received)
        waiting.received = bytearray()
        try:
            said = waiting.flush()
            if last_words:
                waiting.send(last_words)
        except OSError:
            said, last_words = False, b""
        if not (said or last_words):
            self._close(waiting)
            return
        self._await(waiting, Phase.REFUSED)
        refused = self._queues.refused()
        if len(refused) > _MOST_REFUSED:
            self._close(next(iter(refused)))

    def _serve(self, waiting: Waiting, admitted: Admitted, head: AssociateHead, rest: bytes) -> None:
        self._forget(waiting)

        def ended() -> None:
            self._room.limits.ended(admitted.calling_ae)
            self._room.draining.ended()
            self._disconnected(waiting.host)

        try:
            channel = waiting.channel
            serving = Serving(self._room, waiting.sock, admitted, channel, head=head, rest=rest, peer=waiting.peer)
            self._running.start(serving, ended)
            self._tidy_at = self._tidy_at or time.monotonic() + _TIDY_SECONDS
            self._tidies_left = _QUIET_TIDIES
        except (OSError, RuntimeError) as error:  # it is gone, or there are no more threads
            log.event(log.ERROR, "association-failed", "it could not be served", error=type(error).__name__)
            waiting.sock.close()
            ended()
