"""The errors RelayPACS raises by name.

An expected answer of a peer is a value (`model.Outcome`), never one of these. What is here is infrastructure that
failed or a person who has to mend something; the message is one sentence that says what to do, without PHI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relaypacs.model import Checkpoint


class RelayPacsError(Exception):
    """Base of every error that RelayPACS raises on purpose."""


class ConfigError(RelayPacsError):
    """The configuration can't be used. `problems` holds every problem found, one sentence each, with its place."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SpoolError(RelayPacsError):
    """The spool could not make an object durable (write or sync failed). The object is answered 0xA700."""


class SpoolFull(SpoolError):
    """The spool is below its free-space mark or the object is over its limit; nothing was written that counts."""


class SpoolCorrupt(SpoolError):
    """A segment holds bytes that fail their checksum in front of valid ones; it is quarantined, never cut.

    `resume` is where reading can go on behind the damage: the valid rest is delivered all the same.
    """

    def __init__(self, message: str, resume: Checkpoint | None = None) -> None:
        super().__init__(message)
        self.resume = resume


class SpoolLocked(SpoolError):
    """Another node holds the spool folder."""


class SegmentGone(SpoolError):
    """The segment that held an object has been freed; read the object from staging."""


class StagingError(RelayPacsError):
    """Staging could not store or return an object."""


class StagingDown(StagingError):
    """Staging as a whole can't be used now: it doesn't answer, or refuses this node. No object is to blame."""


class ObjectMissing(StagingError):
    """The staged object is not there."""


class ObjectArchived(StagingError):
    """The staged object is there, in an archive of the storage: it has to be restored before it can be read."""


class DigestMismatch(RelayPacsError):
    """Bytes read back are not the bytes that were received; they are never sent."""


class JobsError(RelayPacsError):
    """The job table is unavailable or refused a change."""


class RowsLost(JobsError):
    """The job table lacks what was committed to it: a server took over that did not have it all."""


class Overtaken(JobsError):
    """Another process wrote the same rows at the same moment and won: ask again at once, what it wrote is seen then."""


class SchemaTooNew(JobsError):
    """The job table was migrated by a newer RelayPACS than this one."""
