"""What pynetdicom's decoder is given of a PDU that was received: nothing that it refuses and nobody needs.

Used by `upper.dul`, which keeps what the PDU said. Pure.
"""

from __future__ import annotations

from typing import Final

from relaypacs.dicom.pdu import A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, abort_pdu, reject_pdu
from relaypacs.dicom.user_information import without_what_decides_nothing
from relaypacs.upper.reader import Pdu

_MEANINGFUL_ABORTS: Final = frozenset((2, reason) for reason in (0, 1, 2, 4, 5, 6))
"""Source and reason of an A-ABORT (PS3.8 9.3.8); of one by the user the reason says nothing."""


def for_decoder(part: Pdu) -> bytes:
    """The PDU without what decides nothing here, and with values that mean something in place of reserved ones.
    PduError where an item is cut."""
    if part.kind == A_ABORT:
        said = part.data[8], part.data[9]
        return abort_pdu(*said) if said in _MEANINGFUL_ABORTS else abort_pdu(0, 0)
    if part.kind == A_ASSOCIATE_RJ:
        return reject_pdu(1, 1, 1)
    return without_what_decides_nothing(part.data) if part.kind in (A_ASSOCIATE_RQ, A_ASSOCIATE_AC) else part.data
