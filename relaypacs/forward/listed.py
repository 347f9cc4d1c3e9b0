"""What a destination lists of a study, by whichever protocol it was asked: `find` (C-FIND) or `qido` (QIDO-RS).

That it lists nothing and that it could not be asked are two different answers, and never taken for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

MOST_LISTED = 200_000
"""Instances of one study that are read of an answer."""
LONGEST_SECONDS = 600.0
"""How long one study may be asked for, however slowly the answers drip."""


class Listed(NamedTuple):
    """SOP Instance UIDs that are there; or, if there is `trouble`, a sentence why that can't be known."""

    uids: frozenset[str] = frozenset()
    trouble: str = ""


Wanted = Mapping[str, Collection[str]]
"""SOP Instance UIDs by Series Instance UID; all of them valid."""
Ask = Callable[[str, Wanted, bool], Listed]
"""study, what is looked for in it, and whether each is to be asked for by its name (else by its series)."""
