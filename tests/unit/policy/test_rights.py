"""What a caller is offered once it is admitted."""

from __future__ import annotations

import struct

import pytest

from relaypacs.config.model import Caller
from relaypacs.dicom.contexts import VERIFICATION, negotiate, storage_offer
from relaypacs.policy.rights import offer_to

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
WORKLIST = "1.2.840.10008.5.1.4.31"
IMPLICIT = "1.2.840.10008.1.2"
PRIVATE = "1.2.3.4.5"
EVERYTHING = storage_offer(private_sop_classes=(PRIVATE,))


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def results(caller: Caller) -> dict[str, int]:
    """The result of a context for each abstract syntax (PS3.8 table 9-18)."""
    items = b"".join(
        item(0x20, bytes((2 * number + 1, 0, 0, 0)) + item(0x30, uid.encode()) + item(0x40, IMPLICIT.encode()))
        for number, uid in enumerate((VERIFICATION, CT, MR, PRIVATE, WORKLIST))
    )
    answer = negotiate(items, offer_to(caller, EVERYTHING))
    names = {VERIFICATION: "echo", CT: "CT", MR: "MR", PRIVATE: "private", WORKLIST: "worklist"}
    return {names[one.abstract_syntax]: one.result for one in (*answer.accepted, *answer.rejected)}


@pytest.mark.parametrize(
    ("rights", "refused_by_user"),
    [
        ({}, set()),
        ({"echo": False}, {"echo"}),
        ({"store": False}, {"CT", "MR", "private"}),
        ({"store": False, "echo": False}, {"echo", "CT", "MR", "private"}),
        ({"sop_classes": (CT,)}, {"MR", "private"}),
        ({"sop_classes": ("CT Image*",)}, {"MR", "private"}),
        ({"sop_classes": ("CTImageStorage", "MR Image Storage")}, {"private"}),
        ({"sop_classes": ("1.2.3.*",)}, {"CT", "MR"}),
        ({"sop_classes": ("re:.*Image Storage",)}, {"private"}),
        ({"sop_classes": ("ct image*",)}, {"CT", "MR", "private"}),
        ({"sop_classes": ("*",)}, set()),
        ({"sop_classes": (CT,), "store": False}, {"CT", "MR", "private"}),
    ],
)
def test_what_others_may_is_refused_by_the_user(rights: dict[str, object], refused_by_user: set[str]) -> None:
    expected = {name: 1 if name in refused_by_user else 0 for name in ("echo", "CT", "MR", "private")}
    assert results(Caller(ae_title="CT_1", **rights)) == {**expected, "worklist": 3}  # type: ignore[arg-type]
