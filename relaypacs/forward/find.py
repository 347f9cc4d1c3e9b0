"""What a dimse destination lists of a study: C-FIND, Study Root, IMAGE level (PS3.4 C.4.1), series by series.

Used by `verify` and `examine`: one association, answers bounded in size, number and time. Never raises for anything a
network or a peer does; what could not be asked is a sentence.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from relaypacs.config.destination import ORIGINAL
from relaypacs.config.model import Destination
from relaypacs.dicom.command import C_FIND_RSP, encode_find_request
from relaypacs.dicom.pdu import AbortReason, PduError
from relaypacs.dicom.query import (
    PENDING,
    PENDING_WITHOUT_KEYS,
    STUDY_ROOT_FIND,
    SUCCESS,
    SYNTAXES,
    instances_of,
    named_instance,
)
from relaypacs.forward.lane import sentence
from relaypacs.forward.listed import LONGEST_SECONDS, MOST_LISTED, Listed, Wanted
from relaypacs.forward.tls import client_tls
from relaypacs.upper.association import Requested, associate
from relaypacs.upper.errors import PeerBroken, UpperError

_LONGEST_IDENTIFIER_BYTES = 64 << 10
_NO_FIND = "destination does not accept Study Root C-FIND from us: permit it there"
_NO_UID = "destination answers C-FIND at IMAGE level without SOP Instance UIDs, which proves nothing: see its log"
_TOO_MUCH = "destination answers the C-FIND without end, so it was aborted: see its log"


def find(destination: Destination, calling_ae: str, study: str, wanted: Wanted, by_name: bool = False) -> Listed:
    """Ask for what is `wanted` of a study; `by_name`: with a question for each instance. `calling_ae` is presented if
    the destination configures none of our own."""
    own = "" if destination.calling_ae == ORIGINAL else destination.calling_ae
    found: set[str] = set()
    try:
        association = associate(
            destination.host,
            destination.verify_port or destination.port,
            calling_ae=own or calling_ae,
            called_ae=destination.verify_called_ae or destination.called_ae,
            contexts=[(STUDY_ROOT_FIND, SYNTAXES)],
            connect_timeout_seconds=destination.connect_timeout_seconds,
            response_timeout_seconds=destination.response_timeout_seconds,
            tls=client_tls(destination),
        )
        if not association.accepted:
            association.abort()
            return Listed(trouble=_NO_FIND)
        syntax = next(iter(association.accepted))[1]
        until = time.monotonic() + LONGEST_SECONDS
        for number, key in enumerate(_keys(wanted, by_name=by_name)):
            identifier = instances_of(study, key[0], syntax, key[1])
            trouble = _ask(association, number % 0xFFFF + 1, identifier, found, until)
            if trouble:
                association.release()
                return Listed(trouble=trouble)
        association.release()
    except UpperError as problem:
        said = sentence(problem, response_timeout_seconds=destination.response_timeout_seconds)
        return Listed(trouble=said)
    return Listed(frozenset(found))


def _keys(wanted: Wanted, *, by_name: bool) -> Iterator[tuple[str, str]]:
    for series, instances in wanted.items():
        yield from ((series, one) for one in (instances if by_name else ("",)))


def _ask(association: Requested, message_id: int, identifier: bytes, found: set[str], until: float) -> str:
    """One C-FIND: adds what is answered to `found`; the trouble, or nothing. Raises UpperError."""
    (_, syntax), context_id = next(iter(association.accepted.items()))
    command = encode_find_request(message_id, STUDY_ROOT_FIND)
    association.send_message(context_id, command, memoryview(identifier))
    while True:
        answered = bytearray()

        def collect(fragments: Sequence[memoryview], into: bytearray = answered) -> None:
            for fragment in fragments:
                into.extend(fragment)
            if len(into) > _LONGEST_IDENTIFIER_BYTES:
                raise PduError(AbortReason.NOT_SPECIFIED, "an answer to a C-FIND is over the limit")

        answer = association.read_message(collect=collect)
        if answer.field != C_FIND_RSP or answer.responded_to != message_id or answer.status is None:
            association.abort()
            raise PeerBroken("the answer is no C-FIND-RSP to what was asked")
        if answer.status == SUCCESS:
            return ""
        if answer.status not in (PENDING, PENDING_WITHOUT_KEYS):
            return f"destination answers C-FIND with status {answer.status:04X}: see its log"
        uid = named_instance(bytes(answered), syntax)
        if not uid:
            association.abort()
            return _NO_UID
        found.add(uid)
        if len(found) > MOST_LISTED or time.monotonic() > until:
            association.abort()
            return _TOO_MUCH
