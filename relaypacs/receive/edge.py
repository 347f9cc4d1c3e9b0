"""The edge: accepts connections, reads each A-ASSOCIATE-RQ within bounds, admits it, and only then spends a thread.

One selectors loop per receive process, run by `receive.process`. A connection that has not asked for an association
costs a file descriptor and the bytes it sent; nobody can stall the loop, and where too many wait, the one that has
waited longest goes. Whoever is refused gets the standard's answer, one log line and a metric; a bare connect and close
(a load balancer's) is a debug line.
"""

from __future__ import annotations

import errno
import resource
import selectors
import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client import Gauge

from relaypacs import log
from relaypacs.config.model import Caller
from relaypacs.dicom.pdu import (
    HEADER_BYTES,
    AbortReason,
    AssociateHead,
    PduError,
    abort_pdu,
    read_associate_head,
    reject_pdu,
    whole_request,
)
from relaypacs.failpoint import reach
from relaypacs.policy.admission import NO_SPACE, OVERLOAD, Admitted, Peer, Rejected, admit
from relaypacs.policy.aetitle import clean_ae_title
from relaypacs.receive.limits import CONNECTIONS_OF_ADDRESS, SENTENCES
from relaypacs.receive.room import Room
from relaypacs.receive.running import Running
from relaypacs.receive.serving import REJECTED, Serving

CONNECTIONS_OPEN = Gauge(
    "relaypacs_connections_open", "Connections open now, with or without association.", multiprocess_mode="livesum"
)

_ACCEPTS_PER_TURN = 64
_READ_BYTES = 65536
_MAX_WAITING_BYTES = 64 << 20
"""Bytes of unfinished association requests a process holds in all; beyond, the one that brings more is aborted."""
_MOST_WAITING = 4096
"""Connections without an association a process holds, or half its file descriptors if that is less."""
_TIDY_SECONDS = 10.0
_QUIET_TIDIES = 2
"""The spool may seal what it holds unused, while there are associations and twice after (once may be too soon)."""
_MOST_REFUSED = 256
"""Refused connections whose close a process awaits; beyond, the oldest is closed at once."""
_ACCEPT_PAUSE_SECONDS = 0.2
"""How long accepting rests when the process has no file descriptor left."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """A connection without an association: its request is being read, or its close awaited."""

    sock: socket.socket
    host: str
    peer: str
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    refused: bool = False
    counted: bool = True
    """Whether it is within the limits of connections."""


class Edge:
    """The accept loop of one receive process."""

    def __init__(self, room: Room, callers: Sequence[Caller], listeners: Sequence[socket.socket]) -> None:
        self._room = room
        self._callers = callers
        self._listeners = listeners
        self._selector = selectors.DefaultSelector()
        # Each in the order of its deadlines: every connection of a kind waits equally long.
        self._reading: OrderedDict[_Waiting, None] = OrderedDict()
        self._closing: OrderedDict[_Waiting, None] = OrderedDict()
        self._waiting_bytes = 0
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_waiting = _MOST_WAITING if files == resource.RLIM_INFINITY else min(_MOST_WAITING, files // 2)
        self._accept_again_at: float | None = None
        self._tidy_at: float | None = None
        self._tidies_left = 0
        self._running = Running()

    def run(self) -> None:
        """Serve until the room is told to stop, then close the listeners and what has no association yet."""
        self._selector.register(self._room.stop_fd, selectors.EVENT_READ, None)
        self._listen(True)
        while not self._room.stopping():
            for key, _ in self._selector.select(self._patience()):
                if isinstance(key.data, _Waiting):
                    self._readable(key.data)
                elif key.data is not None:
                    self._accept(key.data)
            self._expire(time.monotonic())
        for waiting in (*self._reading, *self._closing):
            self._close(waiting)
        for listener in self._listeners:
            listener.close()
        self._selector.close()

    def drain(self, grace_seconds: float) -> bool:
        """After `run`: wait for associations to end; abort those that have not after the grace. Whether all ended."""
        return self._running.drain(grace_seconds)

    # Connections

    def _listen(self, on: bool) -> None:
        for listener in self._listeners:
            if on:
                listener.setblocking(False)
                self._selector.register(listener, selectors.EVENT_READ, listener)
            else:
                self._selector.unregister(listener)

    def _patience(self) -> float | None:
        deadlines = [next(iter(queue)).deadline for queue in (self._reading, self._closing) if queue]
        deadlines += [at for at in (self._accept_again_at, self._tidy_at) if at is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, name = listener.accept()
            except BlockingIOError:
                return  # another receive process was faster
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.event(log.ERROR, "accept-paused", "no file descriptor or memory left for another connection")
                    self._listen(False)
                    self._accept_again_at = time.monotonic() + _ACCEPT_PAUSE_SECONDS
                    return
                if error.errno == errno.EINVAL:
                    return  # shut down: the order to stop is on its way
                continue  # that connection is gone already
            sock.setblocking(False)
            reach("edge.accepted")
            host = str(name[0])
            if "." in host:
                host = host.removeprefix("::ffff:")  # an IPv4 peer on an IPv6 listener
            peer = f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"
            deadline = time.monotonic() + self._room.receive.association_request_timeout_seconds
            waiting = _Waiting(sock, host, peer, deadline)
            self._reading[waiting] = None
            self._selector.register(sock, selectors.EVENT_READ, waiting)
            if self._counts(waiting):
                self._readable(waiting)  # the request has often come with the connection
                if len(self._reading) + len(self._closing) > self._most_waiting:
                    self._displace(next(iter(self._closing or self._reading)))

    def _counts(self, waiting: _Waiting) -> bool:
        """Whether a new connection is within the limits; if not, one that waits silently goes, or else this one."""
        word = self._room.limits.connect(waiting.host)
        if word is not None:
            same = word == CONNECTIONS_OF_ADDRESS
            silent = (one for one in self._reading if one is not waiting and (not same or one.host == waiting.host))
            longest = next(silent, None)
            if longest is not None:
                self._displace(longest)
                word = self._room.limits.connect(waiting.host)
        if word is None:
            CONNECTIONS_OPEN.inc()
            return True
        waiting.counted = False
        self._reject(waiting, Rejected(*OVERLOAD, word, SENTENCES[word]), "", "")
        return False

    def _displace(self, waiting: _Waiting) -> None:
        """Close one that has had its answer, or that has waited longest: who means it asks when it connects."""
        if not waiting.refused:
            log.event(log.WARNING, "connection-displaced", "too many connections wait", peer=waiting.peer)
        self._close(waiting)

    def _expire(self, now: float) -> None:
        for queue in (self._reading, self._closing):
            while queue and (waiting := next(iter(queue))).deadline <= now:
                if not waiting.refused:
                    level = log.WARNING if waiting.received else log.INFO
                    log.event(level, "association-request-timeout", "no A-ASSOCIATE-RQ came in time", peer=waiting.peer)
                self._close(waiting)
        if self._accept_again_at is not None and self._accept_again_at <= now:
            self._accept_again_at = None
            self._listen(True)
        if self._tidy_at is not None and self._tidy_at <= now:
            self._tidies_left = _QUIET_TIDIES if self._running.any() else self._tidies_left - 1
            self._tidy_at = now + _TIDY_SECONDS if self._tidies_left > 0 else None
            self._room.spool.refusal()

    def _close(self, waiting: _Waiting) -> None:
        self._forget(waiting)
        waiting.sock.close()
        if waiting.counted:
            self._disconnected(waiting.host)

    def _disconnected(self, host: str) -> None:
        CONNECTIONS_OPEN.dec()
        self._room.limits.disconnect(host)

    def _forget(self, waiting: _Waiting) -> None:
        self._selector.unregister(waiting.sock)
        self._reading.pop(waiting, None)
        self._closing.pop(waiting, None)
        self._waiting_bytes -= len(waiting.received)

    def _readable(self, waiting: _Waiting) -> None:
        try:
            data = waiting.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if not waiting.refused:
                level = log.INFO if waiting.received else log.DEBUG
                log.event(level, "connection-closed", "closed before an association was requested", peer=waiting.peer)
            self._close(waiting)
        elif not waiting.refused:
            waiting.received += data
            self._waiting_bytes += len(data)
            try:
                self._request(waiting)
            except PduError as error:
                self._abort(waiting, error)

    # Requests

    def _request(self, waiting: _Waiting) -> None:
        """Look at what has come: nothing to do yet, or a whole request to decide on. Raises `PduError`."""
        received = waiting.received
        whole = whole_request(received, self._room.receive.max_association_request_bytes)
        if not whole:
            reach("edge.mid-request")
            if self._waiting_bytes > _MAX_WAITING_BYTES:
                raise PduError(AbortReason.NOT_SPECIFIED, "too many association requests are unfinished")
            return
        head = read_associate_head(bytes(received[HEADER_BYTES:whole]))
        word = self._room.limits.request(waiting.host)
        decision: Admitted | Rejected
        if word is not None:
            decision = Rejected(*OVERLOAD, word, SENTENCES[word])
        else:
            decision = admit(head, Peer(waiting.host), self._room.receive, self._callers)
        if isinstance(decision, Admitted):
            decision = self._room_for(decision)
        if isinstance(decision, Rejected):
            self._reject(waiting, decision, clean_ae_title(head.calling_ae), clean_ae_title(head.called_ae))
        else:
            self._serve(waiting, decision, head, bytes(received[whole:]))

    def _room_for(self, admitted: Admitted) -> Admitted | Rejected:
        """Overload is transient (2/3/2), so that the modality tries again."""
        no_space = self._room.spool.refusal()
        if no_space is not None:
            return Rejected(*NO_SPACE, no_space)
        word = self._room.limits.associate(admitted.calling_ae)
        return admitted if word is None else Rejected(*OVERLOAD, word, SENTENCES[word])

    def _reject(self, waiting: _Waiting, rejected: Rejected, calling_ae: str, called_ae: str) -> None:
        REJECTED.labels(rejected.word).inc()
        log.event(
            log.WARNING,
            "association-rejected",
            rejected.sentence,
            user_id=calling_ae,
            called_ae=called_ae,
            peer=waiting.peer,
            reason=rejected.word,
            answer=f"{rejected.result}/{rejected.source}/{rejected.reason}",
        )
        self._refuse(waiting, reject_pdu(rejected.result, rejected.source, rejected.reason))

    def _abort(self, waiting: _Waiting, error: PduError) -> None:
        sentence = str(error)
        if waiting.received[:2] == b"\x16\x03":
            sentence = "the peer speaks TLS, and this port does not"
        REJECTED.labels("request").inc()
        log.event(log.WARNING, "association-request-broken", sentence, peer=waiting.peer, reason=int(error.reason))
        self._refuse(waiting, abort_pdu(2, error.reason))

    def _refuse(self, waiting: _Waiting, last_words: bytes) -> None:
        """Answer, then wait for the peer to close (ARTIM, PS3.8 9.1.5)."""
        waiting.refused = True
        self._waiting_bytes -= len(waiting.received)
        waiting.received = bytearray()
        try:
            waiting.sock.send(last_words)
        except OSError:
            self._close(waiting)
            return
        self._reading.pop(waiting, None)
        waiting.deadline = time.monotonic() + self._room.receive.release_timeout_seconds
        self._closing[waiting] = None
        if len(self._closing) > _MOST_REFUSED:
            self._close(next(iter(self._closing)))

    def _serve(self, waiting: _Waiting, admitted: Admitted, head: AssociateHead, rest: bytes) -> None:
        self._forget(waiting)

        def ended() -> None:
            self._room.limits.ended(admitted.calling_ae)
            self._disconnected(waiting.host)

        try:
            serving = Serving(self._room, waiting.sock, admitted, head=head, rest=rest, peer=waiting.peer)
            self._running.start(serving, ended)
            self._tidy_at = self._tidy_at or time.monotonic() + _TIDY_SECONDS
            self._tidies_left = _QUIET_TIDIES
        except (OSError, RuntimeError) as error:  # it is gone, or there are no more threads
            log.event(log.ERROR, "association-failed", "it could not be served", error=type(error).__name__)
            waiting.sock.close()
            ended()
