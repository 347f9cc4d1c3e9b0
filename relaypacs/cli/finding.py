"""One thing `doctor` found, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """How bad it is."""

    GOOD = "good"
    NOTE = "note"
    """Nothing is wrong, but somebody should know."""
    WARNING = "warning"
    """It works, and will hurt."""
    FAILED = "failed"
    """It does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, one sentence, and what to do about it (empty when good)."""

    what: str
    grade: Grade
    sentence: str
    mend: str = ""
