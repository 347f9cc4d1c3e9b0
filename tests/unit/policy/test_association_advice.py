"""Every way an association goes wrong has a sentence that names what to change."""

from __future__ import annotations

import pytest

from relaypacs.config.model import Caller, Receive
from relaypacs.dicom.contexts import storage_offer
from relaypacs.dicom.proposals import Proposed
from relaypacs.policy.admission import UNKNOWN_CALLER, WRONG_ADDRESS
from relaypacs.policy.association_advice import Seen, mend
from relaypacs.receive.limits import SENTENCES

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
ECHO, WORKLIST, COMMITMENT = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.31", "1.2.840.10008.1.20.1"
JPEG_LS, JPEG = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.50"
EXPLICIT = "1.2.840.10008.1.2.1"
CALLERS = (Caller(ae_title="CT_1", networks=("10.1.0.0/16",)), Caller(ae_title="MR*"))
RECEIVE = Receive(transfer_syntaxes=(EXPLICIT,))
OFFER = storage_offer(RECEIVE.transfer_syntaxes)


def seen(**what: object) -> Seen:
    plain: dict[str, object] = {
        "association_id": "01a2",
        "calling_ae": "CT_3",
        "called_ae": "RELAYPACS",
        "host": "10.9.9.9",
        "outcome": "released",
        "word": "",
        "reason": "",
    }
    return Seen(**{**plain, **what})  # type: ignore[arg-type]


def refused(word: str, reason: str, **what: object) -> Seen:
    return seen(outcome="rejected", word=word, reason=reason, **what)


def proposed(*contexts: Proposed) -> Seen:
    return seen(contexts=contexts)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (refused("calling-ae", UNKNOWN_CALLER), ["no [[caller]]", "caller add --from-rejected 01a2", "10.9.9.9"]),
        (
            refused("calling-ae", WRONG_ADDRESS, calling_ae="CT_1"),
            ["10.9.9.9", "10.1.0.0/16 only", "networks", "caller add --from-rejected 01a2"],
        ),
        (refused("calling-ae", UNKNOWN_CALLER, calling_ae="MR_1"), ["by now", "config reload"]),
        (refused("calling-ae", UNKNOWN_CALLER, calling_ae="ct_1"), ["not CT_1", "case"]),
        (refused("calling-ae", "the calling AE title is blank: correct it"), ["CT_3: the calling AE title is blank"]),
        (
            refused("called-ae", "x", called_ae="ARCHIVE"),
            ["calls this node ARCHIVE", "answers to RELAYPACS", 'add "ARCHIVE" to [receive] ae_titles'],
        ),
        (refused("called-ae", "x"), ["its [[caller]] may not", "called_ae"]),
        (refused("association-limit", SENTENCES["association-limit"]), ["[receive] max_associations"]),
        (refused("no-space", "5 bytes are free"), ["CT_3: 5 bytes are free"]),
        (refused("request", "a PDU of unknown type", calling_ae=""), ["10.9.9.9: a PDU of unknown type"]),
        (
            proposed(Proposed(ENHANCED_CT, (JPEG_LS,), 4)),
            [
                "CT_3 proposed Enhanced CT Image Storage only with JPEG-LS Lossless Image Compression: "
                f"add {JPEG_LS} to [receive] transfer_syntaxes, or have it propose Explicit VR Little Endian as well"
            ],
        ),
        (
            proposed(Proposed(CT, (JPEG_LS,), 4), Proposed(CT, (JPEG, JPEG_LS), 4), Proposed("1.2.3", (EXPLICIT,), 3)),
            ["JPEG-LS Lossless Image Compression, JPEG Baseline (Process 1)", "1 more"],
        ),
        (
            proposed(Proposed(CT, (JPEG_LS, EXPLICIT), 4)),
            ["no destination of it takes", f"add {EXPLICIT} to transfer_syntaxes of its [[destination]]"],
        ),
        (proposed(Proposed(CT, (EXPLICIT,), 3)), ["no destination of it takes", "add it to sop_classes of one"]),
        (proposed(Proposed("1.2.3", (EXPLICIT,), 3)), ["add 1.2.3 to [receive] private_sop_classes"]),
        (proposed(Proposed(WORKLIST, (EXPLICIT,), 3)), ["Worklist", "storage and verification only"]),
        (proposed(Proposed(COMMITMENT, (EXPLICIT,), 3)), ["Storage Commitment", "storage and verification only"]),
        (proposed(Proposed(CT, (EXPLICIT,), 1)), ["CT Image Storage", "its [[caller]] may not store it"]),
        (proposed(Proposed(ECHO, (EXPLICIT,), 1)), ["echo = true"]),
        (proposed(Proposed(CT, (), 2)), ["max_transfer_syntaxes (128)"]),
        (seen(word="contexts"), ["no presentation context"]),
        (seen(outcome="timeout"), ["idle_timeout_seconds", "pdu_timeout_seconds"]),
        (seen(outcome="connection-lost", reason="reset"), ["reset", "firewalls", "10.9.9.9"]),
        (seen(outcome="peer-aborted", reason="0/0"), ["CT_3 gave up (0/0)", "its own log"]),
        (seen(outcome="aborted", reason="a PDV lies"), ["a PDV lies", "vendor"]),
    ],
)
def test_one_sentence_names_the_mend(what: Seen, expected: list[str]) -> None:
    said = mend(what, RECEIVE, CALLERS, OFFER)
    for part in expected:
        assert part in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "what",
    [
        seen(),
        seen(outcome="shutdown"),
        proposed(Proposed(CT, (EXPLICIT,), 0, EXPLICIT)),
        proposed(Proposed(CT, (JPEG_LS,), 4), Proposed(CT, (EXPLICIT,), 0, EXPLICIT)),
    ],
)
def test_nothing_is_said_where_nothing_is_wrong(what: Seen) -> None:
    assert mend(what, RECEIVE, CALLERS, OFFER) == ""


def test_where_every_syntax_is_taken_none_is_to_be_added() -> None:
    # A list of one would take all the others away.
    said = mend(proposed(Proposed(CT, ("1.2.3.4",), 4)), Receive(), CALLERS, storage_offer())
    assert "transfer_syntaxes" not in said
    assert "Explicit VR Little Endian" in said


def test_what_only_destinations_limit_is_said_so() -> None:
    said = mend(proposed(Proposed(CT, ("1.2.840.10008.1.2.4.80",), 4)), Receive(), CALLERS, storage_offer())
    assert "add 1.2.840.10008.1.2.4.80 to transfer_syntaxes of its [[destination]]" in said
    said = mend(proposed(Proposed(CT, ("1.2.840.10008.1.2",), 3)), Receive(), CALLERS, storage_offer())
    assert "sop_classes" in said
