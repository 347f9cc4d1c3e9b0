"""What becomes of an A-ASSOCIATE-RQ that the edge has read: limits, admission, room, and the words for a refusal.

Used by `receive.edge`. Every refusal is one log line and one count of `relaypacs_association_rejected_total`.
"""

from __future__ import annotations

from collections.abc import Sequence

from relaypacs import log
from relaypacs.config.model import Caller
from relaypacs.dicom.pdu import AssociateHead, PduError, abort_pdu, reject_pdu
from relaypacs.policy.admission import NO_SPACE, OVERLOAD, Admitted, Peer, Rejected, admit
from relaypacs.policy.aetitle import clean_ae_title
from relaypacs.receive.limits import SENTENCES
from relaypacs.receive.room import Room
from relaypacs.receive.serving import REJECTED


def decide(room: Room, callers: Sequence[Caller], head: AssociateHead, peer: Peer) -> Admitted | Rejected:
    """Whether this request is admitted; then it counts as an association until `Share.ended`."""
    word = room.limits.request(peer.host)
    if word is not None:
        return overload(word)
    decision = admit(head, peer, room.receive, callers)
    return _room_for(room, decision) if isinstance(decision, Admitted) else decision


def overload(word: str) -> Rejected:
    """The rejection for a limit: transient (2/3/2), so that the modality tries again."""
    return Rejected(*OVERLOAD, word, SENTENCES[word])


def _room_for(room: Room, admitted: Admitted) -> Admitted | Rejected:
    no_space = room.spool.refusal()
    if no_space is not None:
        return Rejected(*NO_SPACE, no_space)
    word = room.limits.associate(admitted.calling_ae)
    return admitted if word is None else overload(word)


def tell_rejected(rejected: Rejected, head: AssociateHead | None, peer: str) -> bytes:
    """Log and count a rejection; the A-ASSOCIATE-RJ to send. `head`: the request, if it was read."""
    REJECTED.labels(rejected.word).inc()
    log.event(
        log.WARNING,
        "association-rejected",
        rejected.sentence,
        user_id=clean_ae_title(head.calling_ae) if head else "",
        called_ae=clean_ae_title(head.called_ae) if head else "",
        peer=peer,
        reason=rejected.word,
        answer=f"{rejected.result}/{rejected.source}/{rejected.reason}",
    )
    return reject_pdu(rejected.result, rejected.source, rejected.reason)


def tell_broken(error: PduError, received: bytes | bytearray, peer: str) -> bytes:
    """Log and count a request that can't be understood; the A-ABORT to send. `received`: its beginning."""
    sentence = str(error)
    if received[:2] == b"\x16\x03":
        sentence = "the peer speaks TLS, and this port does not"
    REJECTED.labels("request").inc()
    log.event(log.WARNING, "association-request-broken", sentence, peer=peer, reason=int(error.reason))
    return abort_pdu(2, error.reason)
