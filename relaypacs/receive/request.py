"""What becomes of an A-ASSOCIATE-RQ that the edge has read: limits, admission, room, and the words for a refusal.

Used by `receive.edge`. Every refusal counts in `relaypacs_association_rejected_total` and is noted in the
association log; it has a log line unless its like has had several just now.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter

from relaypacs import log
from relaypacs.config.model import Caller
from relaypacs.dicom.pdu import AssociateHead, PduError, abort_pdu, reject_pdu
from relaypacs.policy.admission import NO_SPACE, OVERLOAD, Admitted, Peer, Rejected, admit
from relaypacs.policy.aetitle import clean_ae_title
from relaypacs.receive.limits import SENTENCES
from relaypacs.receive.proxy import SIGNATURE, STRAY_HEADER
from relaypacs.receive.rejections import Refusal
from relaypacs.receive.room import Room
from relaypacs.receive.shared import FAILED_TOO_OFTEN
from relaypacs.receive.waiting import Waiting

REJECTED = Counter(
    "relaypacs_association_rejected_total", "Association requests answered with A-ASSOCIATE-RJ or A-ABORT.", ["reason"]
)


def decide(room: Room, callers: Sequence[Caller], head: AssociateHead, peer: Peer) -> Admitted | Rejected:
    """Whether this request is admitted; then it counts as an association until `Share.ended` and
    `Draining.ended`."""
    if room.shared.refuses(peer.host):
        return FAILED_TOO_OFTEN
    word = room.limits.request(peer.host)
    if word is not None:
        return overload(word)
    decision = admit(head, peer, room.receive, callers, room.credentials)
    return _room_for(room, decision) if isinstance(decision, Admitted) else decision


def overload(word: str) -> Rejected:
    """The rejection for a limit: transient (2/3/2), so that the modality tries again."""
    return Rejected(*OVERLOAD, word, SENTENCES[word])


def _room_for(room: Room, admitted: Admitted) -> Admitted | Rejected:
    if not room.draining.begin():
        return Rejected(
            *OVERLOAD, "draining", "the node is being drained (`relaypacs node drain`): send to another one"
        )
    no_space = room.spool.refusal()
    word = room.limits.associate(admitted.calling_ae) if no_space is None else None
    if no_space is None and word is None:
        return admitted
    room.draining.ended()
    return Rejected(*NO_SPACE, no_space) if no_space is not None else overload(word or "")


def tell_rejected(room: Room, rejected: Rejected, head: AssociateHead | None, waiting: Waiting) -> bytes:
    """Log and count a rejection; the A-ASSOCIATE-RJ to send. `head`: the request, if it was read."""
    answer = reject_pdu(rejected.result, rejected.source, rejected.reason)
    refusal = Refusal(
        host=waiting.host,
        peer=waiting.peer,
        calling_ae=clean_ae_title(head.calling_ae) if head else "",
        called_ae=clean_ae_title(head.called_ae) if head else "",
        word=rejected.word,
        sentence=rejected.sentence,
        tls=waiting.who().tls,
        contexts=head.contexts if head else b"",
    )
    tell_refused(room, refusal, f"{rejected.result}/{rejected.source}/{rejected.reason}")
    return answer


def tell_refused(room: Room, refusal: Refusal, answer: str, trace_id: str = "") -> None:
    """Count a refusal, note it in the association log, and log it unless the same was logged often just now."""
    REJECTED.labels(refusal.word).inc()
    room.shared.failed(refusal.host, refusal.word)
    if row := room.association_log.rejected(refusal):
        log.event(
            log.WARNING,
            "association-rejected",
            refusal.sentence,
            trace_id=trace_id or row,
            user_id=refusal.calling_ae,
            called_ae=refusal.called_ae,
            peer=refusal.peer,
            reason=refusal.word,
            answer=answer,
        )


def tell_broken(room: Room, error: PduError, waiting: Waiting) -> bytes:
    """Log and count a request that can't be understood; the A-ABORT to send."""
    sentence = str(error)
    if waiting.received[:2] == b"\x16\x03":
        sentence = "the peer speaks TLS, and this port does not"
    elif waiting.received.startswith(SIGNATURE):
        sentence = STRAY_HEADER
    REJECTED.labels("request").inc()
    room.shared.failed(waiting.host, "request")
    refusal = Refusal(waiting.host, waiting.peer, "", "", "request", sentence, waiting.who().tls)
    if row := room.association_log.rejected(refusal):
        log.event(
            log.WARNING,
            "association-request-broken",
            sentence,
            trace_id=row,
            peer=waiting.peer,
            reason=int(error.reason),
        )
    return abort_pdu(2, error.reason)
