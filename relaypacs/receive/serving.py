"""One admitted association from its A-ASSOCIATE-RQ to its end, in a thread of its own.

`receive.edge` starts `Serving.run` in a new thread. It negotiates, serves C-STORE through the lane and everything
else through pynetdicom, and at the end appends the association's end to the spool, with the exact number of objects.
Never raises: what happens is an outcome, a log line and a metric.
"""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass

from prometheus_client import Counter

from relaypacs import log
from relaypacs.dicom.command import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    RESPONSE,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    UNRECOGNIZED_OPERATION,
    CommandError,
    CommandSet,
    decode_command,
    encode_response,
)
from relaypacs.dicom.contexts import VERIFICATION
from relaypacs.dicom.pdu import AbortReason, AssociateHead, PduError, abort_pdu, reject_pdu
from relaypacs.dicom.proposals import describe
from relaypacs.failpoint import reach
from relaypacs.policy.admission import Admitted, Rejected
from relaypacs.receive.association_id import new_association_id
from relaypacs.receive.lane import Lane
from relaypacs.receive.rejections import Refusal
from relaypacs.receive.request import tell_refused
from relaypacs.receive.room import (
    ABORTED,
    CONNECTION_LOST,
    PEER_ABORTED,
    RELEASED,
    SHUTDOWN,
    TIMEOUT,
    Room,
)
from relaypacs.receive.shared import Ticket
from relaypacs.upper.accept import abort, accept, release
from relaypacs.upper.element import InlineAssociation
from relaypacs.upper.reader import Command, Pdu, Reader
from relaypacs.upper.stream import Stream
from relaypacs.upper.tls import Channel
from relaypacs.upper.tls_stream import TlsStream

ASSOCIATIONS = Counter("relaypacs_associations_total", "Associations that ended, by how.", ["caller", "outcome"])
_NO_CONTEXTS = "contexts"
"""The word for an association in which nothing could be sent."""


@dataclass(frozen=True, slots=True)
class _End:
    outcome: str
    reason: str = ""


class Serving:
    """An association that the edge admitted."""

    def __init__(
        self,
        room: Room,
        sock: socket.socket,
        admitted: Admitted,
        channel: Channel | None = None,
        *,
        head: AssociateHead,
        rest: bytes,
        peer: str,
    ) -> None:
        """`head` is the whole A-ASSOCIATE-RQ; `rest` what had already come behind it; `peer` its address.
        `channel`: TLS, if it is spoken."""
        self._room = room
        self._sock = sock
        self._admitted = admitted
        self._offer = room.takers.narrow(room.offers[admitted.caller], admitted.calling_ae, admitted.called_ae)
        self._head = head
        self._association_id = new_association_id(time.time())
        self._peer = peer
        receive = room.receive
        if channel is None:
            self._stream = Stream(sock, send_timeout_seconds=receive.pdu_timeout_seconds)
        else:
            self._stream = TlsStream(sock, channel, send_timeout_seconds=receive.pdu_timeout_seconds)
        self._reader = Reader(
            self._stream,
            room.buffers,
            max_pdu_bytes=receive.max_pdu_bytes,
            max_command_bytes=receive.max_command_bytes,
            pdu_timeout_seconds=receive.pdu_timeout_seconds,
            first=rest,
        )
        self._forced = False
        self._lane: Lane | None = None

    def force_end(self) -> None:
        """From another thread, when the grace period is over: A-ABORT, and let every read and write fail."""
        self._forced = True
        self._stream.interrupt(abort_pdu(0, 0))

    def run(self) -> None:
        """Serve it to its end."""
        started_at = time.time()
        association: InlineAssociation | None = None
        end: _End | None = None
        ticket: Ticket | Rejected = Ticket()
        try:
            ticket = self._room.shared.enter(self._admitted)
            if isinstance(ticket, Rejected):
                self._reject(ticket)
                return
            association = accept(
                self._sock,
                self._stream,
                self._reader,
                self._head,
                calling_ae=self._admitted.calling_ae,
                called_ae=self._admitted.called_ae,
                offer=self._offer,
                identity_verified=bool(self._admitted.caller.credentials_env),
                max_pdu_bytes=self._room.receive.max_pdu_bytes,
                timeout_seconds=self._room.receive.pdu_timeout_seconds,
                max_operations_invoked=self._room.receive.max_operations_invoked,
            )
            if not association.is_established:
                self._not_established(association)
                return
            reach("serving.associated")
            end = self._serve(association)
        except Exception as error:  # a bug of ours: the peer gets an abort, the log a line, the process lives
            log.event(
                log.ERROR,
                "association-failed",
                "unexpected internal error, association aborted",
                trace_id=self._association_id,
                user_id=self._admitted.calling_ae,
                error=type(error).__name__,
            )
            end = _End(ABORTED, "unexpected internal error")
            if association is not None:
                abort(association)
        finally:
            self._close(association, end, started_at)
            self._room.shared.leave(ticket)

    def _close(self, association: InlineAssociation | None, end: _End | None, started_at: float) -> None:
        if end is not None:
            self._record(_End(SHUTDOWN, "the grace period was over") if self._forced else end, started_at)
        if association is not None:
            association.inline.close(0.0 if self._forced else self._room.receive.release_timeout_seconds)
        self._stream.close()

    def _reject(self, rejected: Rejected) -> None:
        result, source, reason = rejected.result, rejected.source, rejected.reason
        self._tell_refused(rejected.word, rejected.sentence, f"{result}/{source}/{reason}")
        with contextlib.suppress(OSError):
            self._stream.send(reject_pdu(result, source, reason))
        self._stream.wait_closed(self._room.receive.release_timeout_seconds)

    def _not_established(self, association: InlineAssociation) -> None:
        if association.is_rejected:
            sentence = "it proposes a user identity, which can't be verified on this listener"
            self._tell_refused("user-identity", sentence, "1/1/1")
        else:
            self._tell_refused("request", _ended_by(association).reason, "A-ABORT")

    def _tell_refused(self, word: str, sentence: str, answer: str) -> None:
        refusal = Refusal(
            host=self._admitted.peer.host,
            peer=self._peer,
            calling_ae=self._admitted.calling_ae,
            called_ae=self._admitted.called_ae,
            word=word,
            sentence=sentence,
            tls=self._admitted.peer.tls,
            contexts=self._head.contexts,
        )
        tell_refused(self._room, refusal, answer, self._association_id)

    def _serve(self, association: InlineAssociation) -> _End:
        inline, receive, room = association.inline, self._room.receive, self._room
        self._lane = Lane(
            room.spool,
            self._stream,
            self._reader,
            association_id=self._association_id,
            calling_ae=self._admitted.calling_ae,
            called_ae=self._admitted.called_ae,
            peer=self._peer,
            peer_max_pdu_bytes=association.requestor.maximum_length or 0,
            receipt=room.receipts.wait if room.receipts and room.receipts.wanted_by(self._admitted.caller) else None,
        )
        accepted = association.negotiated.accepted if association.negotiated else ()
        contexts = {one.context_id: (one.abstract_syntax, one.transfer_syntax) for one in accepted}

        def read() -> Command | Pdu | None:
            return self._reader.read_command(receive.idle_timeout_seconds, room.draining.fd, room.draining.ending)

        while inline.state == "Sta6":
            try:
                part = inline.next_part(read)
                if part is None or room.draining.ending():
                    abort(association)
                    return _End(SHUTDOWN, room.draining.why())
                if isinstance(part, Command):
                    cut = self._command(association, contexts, self._lane, part)
                    if cut is not None:
                        inline.take(cut)
                else:
                    inline.take(part)
            except CommandError as error:
                inline.fail(PduError(AbortReason.INVALID_PARAMETER, str(error)))
            except (PduError, OSError, EOFError) as error:
                inline.fail(error)
        if inline.state == "Sta8":
            release(association)
            return _End(RELEASED)
        return _ended_by(association)

    def _command(
        self, association: InlineAssociation, contexts: dict[int, tuple[str, str]], lane: Lane, command: Command
    ) -> Pdu | None:
        """Serve one DIMSE message; a `Pdu` if one cut it."""
        request = decode_command(command.data)
        if command.context_id not in contexts:
            raise PduError(AbortReason.INVALID_PARAMETER, "a message in a presentation context that was not accepted")
        if request.field & RESPONSE:
            raise PduError(AbortReason.UNEXPECTED_PDU, "a response to a request we never made")
        if request.field == C_CANCEL_RQ:
            return None  # nothing that could be cancelled runs now (PS3.7 9.3.2.3: no answer)
        if request.message_id is None:
            raise PduError(AbortReason.INVALID_PARAMETER, "a request without Message ID")
        abstract_syntax, transfer_syntax = contexts[command.context_id]
        if request.field == C_STORE_RQ:
            return lane.store(
                command.context_id,
                abstract_syntax,
                transfer_syntax,
                request,
                is_storage=abstract_syntax in self._offer.storage,
            )
        if request.field == C_ECHO_RQ and not request.has_dataset:
            meant = abstract_syntax == VERIFICATION and request.sop_class_uid in ("", VERIFICATION)
            lane.answer(command.context_id, encode_response(request, SUCCESS if meant else SOP_CLASS_NOT_SUPPORTED))
            return None
        return self._unrecognized(command.context_id, request, lane)

    def _unrecognized(self, context_id: int, request: CommandSet, lane: Lane) -> Pdu | None:
        """Answer 0211 to what this node doesn't do, after its dataset."""
        if request.has_dataset:
            cut = self._reader.read_dataset(context_id, lambda fragments: None)
            if cut is not None:
                return cut
        lane.answer(context_id, encode_response(request, UNRECOGNIZED_OPERATION))
        return None

    def _record(self, end: _End, started_at: float) -> None:
        ended_at = time.time()
        objects = self._lane.tally.objects if self._lane else 0
        size = self._lane.tally.bytes if self._lane else 0
        ASSOCIATIONS.labels(self._admitted.caller.ae_title, end.outcome).inc()
        proposed = describe(self._head.contexts, self._offer)
        useless = proposed.useless and not objects
        self._room.association_log.ended(
            {
                "association_id": self._association_id,
                "calling_ae": self._admitted.calling_ae,
                "called_ae": self._admitted.called_ae,
                "peer": self._peer,
                "tls": self._admitted.peer.tls,
                "started_at": started_at,
                "ended_at": ended_at,
                "outcome": end.outcome,
                "word": _NO_CONTEXTS if useless else "",
                "reason": end.reason,
                "tries": 1,
                "objects": objects,
                "bytes": size,
                "contexts": proposed.text,
            }
        )
        log.event(
            log.INFO if end.outcome in (RELEASED, SHUTDOWN) and not useless else log.WARNING,
            "association-ended",
            end.reason or ("nothing it proposed is accepted" if useless else "released by the peer"),
            trace_id=self._association_id,
            user_id=self._admitted.calling_ae,
            outcome=end.outcome,
            called_ae=self._admitted.called_ae,
            peer=self._peer,
            objects=objects,
            bytes=size,
            seconds=round(ended_at - started_at, 3),
        )


def _ended_by(association: InlineAssociation) -> _End:
    """How an association ended that nobody released."""
    inline = association.inline
    if inline.peer_abort is not None:
        source, reason = inline.peer_abort
        return _End(PEER_ABORTED, f"the peer aborted ({source}/{reason})")
    if inline.timed_out:
        return _End(TIMEOUT, "the peer was silent for too long")
    if inline.aborted_because:
        return _End(ABORTED, inline.aborted_because)
    if inline.lost_because:
        return _End(CONNECTION_LOST, inline.lost_because)
    return _End(ABORTED, "aborted")
