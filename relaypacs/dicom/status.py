"""What a destination's answer about one instance means: C-STORE statuses and STOW-RS failure reasons, one table each.

Data only; `policy.outcome` makes outcomes of it. The first row that fits counts, so peers' dialects stand before the
standard's ranges. What no row knows is unknown: that is never success, it is tried again. Sentences begin where
`the destination ` ends, hold the code as `{code}` and name the mend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Meaning(StrEnum):
    """What becomes of the instance."""

    STORED = "stored"
    WARNING = "stored, with a warning"
    THERE = "already there"
    FULL = "out of resources"
    """Later; one after another it is the destination's trouble."""
    LATER = "later"
    KIND = "refused for its SOP class or transfer syntax"
    """Never, and neither is any other instance of that kind."""
    NEVER = "refused"


@dataclass(frozen=True, slots=True)
class Row:
    """Codes `first` to `last`, what they mean, what is said, and where it is written."""

    first: int
    last: int
    meaning: Meaning
    sentence: str
    source: str
    peer: str = ""
    """Whose dialect it is; empty for the standard's own words."""


_FULL = "is out of resources ({code}): check its disk and log"
_LATER_PROCESSING = "could not process the instance ({code}): its own log says why"
_MISMATCH = "says the dataset does not match its SOP class ({code}): correct it at the source"
_SYNTAX = "can't store this transfer syntax ({code}): enable it there or route elsewhere"
_UNDERSTAND = "cannot understand the dataset ({code}): its log says what is wrong; mend, then resend"
UNKNOWN = "answered a status no standard defines here ({code}): see its log"

REFUSALS = (
    Row(
        0xA777,
        0xA777,
        Meaning.FULL,
        "says it is out of resources ({code}): where it is a dcm4chee-arc, the instance lacks a patient or study id",
        "dcm4chee-arc",
        "dcm4chee-arc",
    ),
    Row(
        0xA778,
        0xA779,
        Meaning.FULL,
        "says it is out of resources ({code}): where it is a dcm4chee-arc, the study is there under another patient",
        "dcm4chee-arc",
        "dcm4chee-arc",
    ),
    Row(
        0xA770,
        0xA776,
        Meaning.FULL,
        "says it is out of resources ({code}): where it is a dcm4chee-arc, it was rejected there before: see its log",
        "dcm4chee-arc",
        "dcm4chee-arc",
    ),
    Row(0x0105, 0x0105, Meaning.LATER, "knows no such attribute ({code}): its own log says why", "PS3.7 C.4.1"),
    Row(0x0110, 0x0110, Meaning.LATER, _LATER_PROCESSING, "PS3.7 C.5.3, PS3.18 I.2.2"),
    Row(
        0x0117,
        0x0117,
        Meaning.NEVER,
        "says the SOP Instance UID is invalid ({code}): correct it at the source and send again",
        "PS3.7 C.5.9",
    ),
    Row(
        0x0118,
        0x0118,
        Meaning.KIND,
        "does not know the SOP class ({code}): enable the class there or route it elsewhere",
        "PS3.7 C.5.18",
    ),
    Row(
        0x0122,
        0x0122,
        Meaning.KIND,
        "does not support the SOP class ({code}): enable the class there or route it elsewhere",
        "PS3.7 C.5.21",
    ),
    Row(
        0x0124,
        0x0124,
        Meaning.NEVER,
        "does not allow this node to store ({code}): permit our calling AE title there",
        "PS3.7 C.5.17",
    ),
    Row(
        0x0210,
        0x0210,
        Meaning.LATER,
        "calls our message id a duplicate ({code}): its own log says why",
        "PS3.7 C.5.6",
    ),
    Row(
        0x0211,
        0x0211,
        Meaning.LATER,
        "says it does not know this operation ({code}): is Storage SCP enabled there?",
        "PS3.7 annex C",
    ),
    Row(
        0x0212,
        0x0212,
        Meaning.LATER,
        "says a parameter was not agreed on ({code}): its own log says which",
        "PS3.7 annex C",
    ),
    Row(0x0213, 0x0213, Meaning.FULL, "is short of resources ({code}): check its load and disk", "PS3.7 C.5.20"),
    Row(0xA700, 0xA7FF, Meaning.FULL, _FULL, "PS3.4 B.2.3, PS3.18 I.2.2"),
    Row(0xA900, 0xA9FF, Meaning.NEVER, _MISMATCH, "PS3.4 B.2.3, PS3.18 I.2.2"),
    Row(0xC122, 0xC123, Meaning.KIND, _SYNTAX, "PS3.18 I.2.2", "dcm4chee-arc by C-STORE"),
    Row(0xC000, 0xCFFF, Meaning.NEVER, _UNDERSTAND, "PS3.4 B.2.3, PS3.18 I.2.2"),
)
"""What both services have in common."""

STORE: Sequence[Row] = (
    Row(0x0000, 0x0000, Meaning.STORED, "", "PS3.7 C.1.1"),
    Row(0x0111, 0x0111, Meaning.THERE, "", "PS3.7 C.5.7"),
    Row(0x0001, 0x0001, Meaning.WARNING, "", "PS3.7 C.4"),
    Row(0x0107, 0x0107, Meaning.WARNING, "", "PS3.7 C.4.2"),
    Row(0x0116, 0x0116, Meaning.WARNING, "", "PS3.7 C.4.3"),
    Row(0xB000, 0xBFFF, Meaning.WARNING, "", "PS3.4 B.2.3"),
    *REFUSALS,
)
"""C-STORE-RSP Status (0000,0900)."""

STOW: Sequence[Row] = (
    Row(0x0111, 0x0111, Meaning.THERE, "", "PS3.7 C.5.7", "tiny-pacs, dcm4chee-arc"),
    Row(0xB00E, 0xB00E, Meaning.THERE, "", "45070: the same identifiers are stored", "Azure"),
    Row(
        0xB00F,
        0xB00F,
        Meaning.LATER,
        "is still storing this instance for somebody else ({code})",
        "45071: being created by another process",
        "Azure",
    ),
    *REFUSALS,
)
"""Failure Reason (0008,1197) of the Failed SOP Sequence. Bxxx is no warning here: the instance is listed as failed."""


def look_up(table: Sequence[Row], code: int) -> Row | None:
    """The row of a code (0..0xFFFF), or None for one that nobody defines."""
    return next((row for row in table if row.first <= code <= row.last), None)
