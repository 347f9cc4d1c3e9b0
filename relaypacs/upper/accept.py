"""Associations we are asked for (acceptor side): used by `receive`.

The edge has read the A-ASSOCIATE-RQ and admitted it; here it is negotiated with pynetdicom. Returns an
association that may not be established: then it was rejected, or aborted for what the request held.
"""

from __future__ import annotations

import contextlib
import socket

from relaypacs.dicom.contexts import Offer, negotiate
from relaypacs.dicom.pdu import (
    A_ASSOCIATE_RQ,
    LENGTH_IF_NONE,
    SMALLEST_MAX_PDU_BYTES,
    AbortReason,
    AssociateHead,
    PduError,
    associate_rq_without_contexts,
)
from relaypacs.upper.element import InlineAssociation, address
from relaypacs.upper.reader import Pdu, Reader
from relaypacs.upper.stream import Stream


def accept(
    sock: socket.socket,
    stream: Stream,
    reader: Reader,
    head: AssociateHead,
    *,
    calling_ae: str,
    called_ae: str,
    offer: Offer,
    identity_verified: bool = False,
    max_pdu_bytes: int,
    timeout_seconds: float,
    max_operations_invoked: int = 1,
) -> InlineAssociation:
    """Answer an A-ASSOCIATE-RQ (PS3.8 7.1, PS3.7 D).

    `head` is the whole request; `calling_ae` and `called_ae` are its titles as admission read them, so that nobody
    chokes on NULs as padding. The presentation contexts pass by pynetdicom: they are negotiated and encoded here.
    `identity_verified`: the user identity that is shown was looked at and is right; else one is refused.
    `max_pdu_bytes` is announced; `timeout_seconds` bounds what pynetdicom's services wait for. Of an asynchronous
    operations window at most `max_operations_invoked` is granted.
    """
    association = InlineAssociation(
        "acceptor",
        stream,
        reader,
        max_pdu_bytes=max_pdu_bytes,
        acse_timeout_seconds=timeout_seconds,
        dimse_timeout_seconds=timeout_seconds,
    )
    association.max_operations_invoked = max_operations_invoked
    association.identity_verified = identity_verified
    inline = association.inline
    try:
        association.requestor.address_info = address(sock, remote=True)
        association.acceptor.address_info = address(sock, remote=False)
        association.acceptor.ae_title = called_ae
        inline.indicate_connection()
        negotiated = negotiate(head.contexts, offer)
        inline.context_items = negotiated.items
        inline.take(Pdu(A_ASSOCIATE_RQ, associate_rq_without_contexts(head, calling_ae, called_ae)))
        if inline.state == "Sta3":
            association.requestor.primitive = inline.receive_pdu(wait=False)
            length = association.requestor.maximum_length
            if length is None and association.requestor.primitive is not None:
                association.requestor.primitive.maximum_length_received = LENGTH_IF_NONE
            elif length is not None and 0 < length < SMALLEST_MAX_PDU_BYTES:
                raise PduError(AbortReason.INVALID_PARAMETER, "the peer takes almost nothing in a PDU")
            association.acse.negotiate_association()
            association.negotiated = negotiated
    except PduError as error:
        inline.fail(error)
    except OSError as error:
        inline.fail(error)
    except Exception:  # what pynetdicom raises on a request a hostile peer made up
        inline.fail(PduError(AbortReason.INVALID_PARAMETER, "the association request can't be understood"))
    return association


def abort(association: InlineAssociation) -> None:
    """A-ABORT by the service user (PS3.8 9.3.8, source 0); the connection stays to be closed."""
    with contextlib.suppress(OSError):
        association.abort()


def release(association: InlineAssociation) -> None:
    """Answer the peer's A-RELEASE-RQ."""
    association.acse.send_release(is_response=True)
    association.is_released = True
    association.is_established = False
