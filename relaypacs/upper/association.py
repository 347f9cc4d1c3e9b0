"""Associations we ask for (requestor side): used by the forward rooms and the command line.

`associate` returns a `Requested` or raises an `upper.errors.UpperError` that says how it failed. One thread uses a
`Requested` at a time. After any error it is closed and must not be used again: half a message may be under way.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Sequence

from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation
from pynetdicom.presentation import PresentationContext

from relaypacs.dicom.command import CommandError, CommandSet, decode_command
from relaypacs.dicom.contexts import VERIFICATION
from relaypacs.dicom.message import message_groups
from relaypacs.dicom.pdu import LENGTH_IF_NONE, SMALLEST_MAX_PDU_BYTES, AbortReason, PduError
from relaypacs.upper.element import InlineAssociation, address
from relaypacs.upper.errors import (
    AnswerTimeout,
    AssociationAborted,
    AssociationRejected,
    ConnectFailed,
    ConnectionLost,
    PeerBroken,
    PeerReleased,
    UpperError,
)
from relaypacs.upper.reader import Buffers, Command, Reader
from relaypacs.upper.stream import Stream
from relaypacs.upper.tls import ClientTls, TlsFailed
from relaypacs.upper.tls_stream import TlsStream, begin

_RELEASE_TIMEOUT_SECONDS = 5.0
_ABORT_LINGER_SECONDS = 0.5
_SKIPPED_BYTES = 64 << 10
_ANSWER_BUFFERS = Buffers(16384)
"""Answers are small; a longer PDU is read in pieces."""


def associate(
    host: str,
    port: int,
    *,
    calling_ae: str,
    called_ae: str,
    contexts: Sequence[tuple[str, Sequence[str]]],
    connect_timeout_seconds: float,
    response_timeout_seconds: float,
    max_pdu_bytes: int = 131072,
    tls: ClientTls | None = None,
    max_operations: int = 1,
) -> Requested:
    """Connect and negotiate an association, over TLS if `tls` is given.

    `contexts`: (abstract syntax UID, transfer syntax UIDs), each proposed as a presentation context of its own, at
    most 128. `connect_timeout_seconds` bounds the connection, the TLS handshake and the answer to A-ASSOCIATE-RQ, each;
    `response_timeout_seconds` the silence while a DIMSE answer is owed. `max_pdu_bytes` is announced as our own.
    `max_operations`: requests that we would send before the first is answered; 1 proposes no window (PS3.7 D.3.3.3).
    Raises `ConnectFailed`, `AssociationRejected`, `AssociationAborted` or `AnswerTimeout`. A peer that accepts no
    context at all gives a `Requested` that is not open and whose `accepted` is empty.
    """
    if not 1 <= len(contexts) <= 128:
        raise ValueError("an association proposes 1 to 128 presentation contexts")  # PS3.8 7.1.1.13
    try:
        sock = socket.create_connection((host, port), timeout=connect_timeout_seconds)
    except OSError as error:
        raise ConnectFailed(f"no connection: {error.strerror or type(error).__name__}") from error
    except UnicodeError:  # a name that DNS can't hold
        unknown = socket.gaierror(socket.EAI_NONAME, "no such host name")
        raise ConnectFailed("no connection: no such host name") from unknown
    try:
        theirs, ours = address(sock, remote=True), address(sock, remote=False)
        if tls is None:
            stream = Stream(sock, send_timeout_seconds=response_timeout_seconds)
        else:
            stream = _secured(sock, tls, host, connect_timeout_seconds, response_timeout_seconds)
        reader = Reader(
            stream,
            _ANSWER_BUFFERS,
            max_pdu_bytes=max_pdu_bytes,
            max_command_bytes=65536,
            pdu_timeout_seconds=connect_timeout_seconds,
        )
        association = InlineAssociation(
            "requestor",
            stream,
            reader,
            max_pdu_bytes=max_pdu_bytes,
            acse_timeout_seconds=connect_timeout_seconds,
            dimse_timeout_seconds=response_timeout_seconds,
        )
        local, remote = association.requestor, association.acceptor
        remote.address_info, local.address_info = theirs, ours
        remote.ae_title, local.ae_title = called_ae, calling_ae
        local.requested_contexts = [
            _proposal(number * 2 + 1, abstract_syntax, transfer_syntaxes)
            for number, (abstract_syntax, transfer_syntaxes) in enumerate(contexts)
        ]
        if max_operations > 1:
            window = AsynchronousOperationsWindowNegotiation()
            window.maximum_number_operations_invoked = max_operations
            window.maximum_number_operations_performed = 1
            local.add_negotiation_item(window)
        requested = _negotiate(association, reader)
        requested.operations = _granted(association, max_operations)
        reader.pdu_timeout_seconds = response_timeout_seconds
        return requested
    except OSError as error:
        sock.close()
        raise ConnectFailed("the peer closed the connection at once") from error
    except BaseException:
        sock.close()
        raise


def _secured(sock: socket.socket, tls: ClientTls, host: str, timeout_seconds: float, send_seconds: float) -> Stream:
    try:
        channel = tls.channel(host)
        begin(sock, channel, timeout_seconds)
    except TlsFailed as error:
        raise ConnectFailed(f"no TLS: {error}") from error
    except OSError as error:
        broken = TlsFailed(
            "it does not answer the TLS handshake in time: is this a TLS port?"
            if isinstance(error, TimeoutError)
            else "it broke the connection during the TLS handshake: is this a TLS port?"
        )
        raise ConnectFailed(f"no TLS: {broken}") from broken
    return TlsStream(sock, channel, send_timeout_seconds=send_seconds)


def _negotiate(association: InlineAssociation, reader: Reader) -> Requested:
    reader.associated = False
    association.request()
    reader.associated = True
    requested = Requested(association)
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        requested.close()
        raise AssociationRejected(*association.inline.peer_rejection)
    if association.is_established:
        if 0 < requested.peer_max_pdu_bytes < SMALLEST_MAX_PDU_BYTES:
            association.inline.fail(PduError(AbortReason.INVALID_PARAMETER, "it takes almost nothing in a PDU"))
            raise requested.ended("in answer to the association request")
        if association.acceptor.maximum_length is None and answer is not None:
            answer.maximum_length_received = LENGTH_IF_NONE  # pynetdicom's services divide by it
        association.acse_timeout = _RELEASE_TIMEOUT_SECONDS
        return requested
    if association.inline.lost_because and isinstance(requested.stream, TlsStream):
        association.inline.lost_error = requested.stream.ended_early()
    if answer is None or answer.result != 0:
        raise requested.ended("in answer to the association request", requesting=True)
    requested.close()  # no context was accepted, and pynetdicom has aborted
    return requested


def _granted(association: InlineAssociation, max_operations: int) -> int:
    """The window of the A-ASSOCIATE-AC: 1 where it says nothing, and 0 is any number (PS3.7 D.3.3.3)."""
    if max_operations == 1 or not association.is_established:
        return 1
    granted: int = association.acceptor.asynchronous_operations[0]
    return min(granted, max_operations) if granted else max_operations


def _proposal(context_id: int, abstract_syntax: str, transfer_syntaxes: Sequence[str]) -> PresentationContext:
    context = PresentationContext()
    context.context_id = context_id
    context.abstract_syntax = abstract_syntax
    context.transfer_syntax = list(transfer_syntaxes)
    return context


class Requested:
    """An association that a peer accepted."""

    def __init__(self, association: InlineAssociation) -> None:
        self._association = association
        self._inline = association.inline
        self.stream = association.inline.stream
        self.accepted: dict[tuple[str, str], int] = {
            (str(context.abstract_syntax), str(context.transfer_syntax[0])): int(context.context_id or 0)
            for context in reversed(association.accepted_contexts)
        }
        """(abstract syntax, transfer syntax) that the peer took -> presentation context id (the lowest of several)."""
        self.operations = 1
        """How many requests may be under way at once (PS3.7 D.3.3.3)."""
        length = association.acceptor.maximum_length if association.acceptor.primitive else None
        self.peer_max_pdu_bytes = LENGTH_IF_NONE if length is None else length
        """Longest P-DATA-TF the peer takes; 0 means unlimited."""

    @property
    def is_open(self) -> bool:
        """Whether it can be used, as far as what has already arrived tells (an abort, a close, a release request)."""
        if self._inline.state == "Sta6":
            self._inline.poll()
        if self._inline.state == "Sta8":
            self._answer_release()
        return self._association.is_established and self._inline.state == "Sta6"

    def send_message(self, context_id: int, command: bytes, dataset: memoryview | None = None) -> None:
        """Send one DIMSE message, cut to what the peer takes, without copying the dataset. Raises `UpperError`."""
        self.send_groups(message_groups(context_id, command, dataset, self.peer_max_pdu_bytes))

    def send_groups(self, groups: Iterable[Sequence[bytes | memoryview]]) -> None:
        """Send P-DATA-TF PDUs that are already encoded. Raises `UpperError`; then part of it may have been sent."""
        if self._inline.state != "Sta6":
            raise self.ended("before a request could be sent")
        try:
            self.stream.send_groups(groups)
        except OSError as error:
            # The peer's A-ABORT, if that is why, is still to be read.
            if not isinstance(error, TimeoutError):
                self._inline.poll()
            self._inline.fail(error)
            raise self.ended("while a request was being sent") from error

    def read_message(
        self,
        timeout_seconds: float | None = None,
        collect: Callable[[Sequence[memoryview]], None] | None = None,
    ) -> CommandSet:
        """The next message's command set; a dataset with it is skipped, or given to `collect` piece by piece, as
        views that are valid only during the call. `collect` may raise PduError: it is too much.

        Waits for at most `timeout_seconds` (default: the response timeout). Raises `AnswerTimeout` (and has aborted),
        `PeerReleased`, `ConnectionLost`, `PeerBroken` or `AssociationAborted`.
        """
        inline = self._inline
        wait = self._association.dimse_timeout if timeout_seconds is None else timeout_seconds
        try:
            part = inline.next_part(lambda: inline.reader.read_command(float(wait or 0)))
            if isinstance(part, Command):
                command = decode_command(part.data)
                if command.has_dataset:
                    part = inline.reader.read_dataset(
                        part.context_id, collect or _skipping(), within_seconds=inline.reader.pdu_timeout_seconds
                    )
                    if part is None:
                        return command
                else:
                    return command
            if part is not None:
                inline.take(part)
        except CommandError as error:
            inline.fail(PduError(AbortReason.INVALID_PARAMETER, str(error)))
        except (PduError, OSError, EOFError) as error:
            inline.fail(error)
        raise self.ended("in answer to a request")

    def echo(self) -> int:
        """C-ECHO; the status. Needs Verification among the accepted contexts (ValueError). Raises `UpperError`."""
        if not any(abstract_syntax == VERIFICATION for abstract_syntax, _ in self.accepted):
            raise ValueError("the peer did not accept Verification")
        if not self.is_open:
            raise self.ended("before a C-ECHO could be sent")
        answer = self._association.send_c_echo()
        if "Status" not in answer:
            raise self.ended("in answer to a C-ECHO")
        return int(answer.Status)

    def release(self) -> None:
        """Release the association (A-RELEASE) and close; what goes wrong then no longer matters."""
        if self.is_open:
            with contextlib.suppress(OSError):
                self._association.release()
        self.close()

    def abort(self) -> None:
        """Abort the association (A-ABORT by the user) and close."""
        if self._inline.state not in ("Sta1", "Sta13"):
            with contextlib.suppress(OSError):
                self._association.abort()
        self.close()

    def close(self) -> None:
        """Close the connection without another word."""
        self._association.is_established = False
        self._inline.close(_ABORT_LINGER_SECONDS)

    def _answer_release(self) -> None:
        with contextlib.suppress(OSError):
            self._association.acse.send_release(is_response=True)
        self.close()

    def ended(self, when: str, *, requesting: bool = False) -> UpperError:
        """Close, and return the error that says how the association ended. `when`: `in answer to a C-ECHO`."""
        inline = self._inline
        if inline.state == "Sta8":
            self._answer_release()
            return PeerReleased(f"the peer released the association {when}")
        if isinstance(inline.lost_error, TlsFailed):  # TLS 1.3: what is wrong with our certificate is said afterwards
            self.abort()
            failed = ConnectFailed(f"no TLS {when}: {inline.lost_error}")
            failed.__cause__ = inline.lost_error
            return failed
        silent = inline.timed_out or not (inline.peer_abort or inline.aborted_because or inline.lost_because)
        self.abort()
        if inline.peer_abort is not None:
            return AssociationAborted(f"the peer aborted the association {when}", *inline.peer_abort)
        if inline.aborted_because:
            return PeerBroken(f"the peer broke the protocol {when}: {inline.aborted_because}", 2)
        if silent:
            return AnswerTimeout(f"the peer was silent for too long {when}", requesting=requesting)
        return ConnectionLost(f"{inline.lost_because} {when}", 2)


def _skipping() -> Callable[[Sequence[memoryview]], None]:
    """Passes over a dataset that no answer should have, and no longer one."""
    left = _SKIPPED_BYTES

    def skip(fragments: Sequence[memoryview]) -> None:
        nonlocal left
        left -= sum(map(len, fragments))
        if left < 0:
            raise PduError(AbortReason.INVALID_PARAMETER, "a long dataset came with an answer that has none")

    return skip
