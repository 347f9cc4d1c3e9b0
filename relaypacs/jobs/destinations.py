"""What the job table knows of destinations themselves: outages, and what was verified to be there.

`JobStore.destinations`; used by the forward rooms and the command line. Each method is one transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from sqlalchemy import Connection

from relaypacs.jobs.fallback import Fallbacks
from relaypacs.jobs.verification import Verifications

_Transaction = Callable[[], AbstractContextManager[Connection]]


class Destinations:
    """Both books."""

    def __init__(self, reading: _Transaction, writing: _Transaction, homes: Callable[[str], tuple[str, ...]]) -> None:
        """`homes(node)`: whose deliveries a node may make."""
        self.fallbacks = Fallbacks(reading, writing, homes)
        self.verifications = Verifications(reading, writing)
