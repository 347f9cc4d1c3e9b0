"""How an association that we asked for, or wanted to use, can fail. Every one is expected in the field."""

from __future__ import annotations

from relaypacs.errors import RelayPacsError


class UpperError(RelayPacsError):
    """Base of what `upper` raises; the association can't be used any more."""


class ConnectFailed(UpperError):
    """No TCP connection to the peer: refused, unreachable, unknown name, or no answer in time."""


class AssociationRejected(UpperError):
    """The peer answered A-ASSOCIATE-RJ; `result`, `source`, `reason` as in PS3.8 9.3.4."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__(f"the peer rejected the association ({result}/{source}/{reason})")
        self.result = result
        self.source = source
        self.reason = reason

    @property
    def transient(self) -> bool:
        """Whether the peer says to try again later (result 2)."""
        return self.result == 2


class AssociationAborted(UpperError):
    """The association ended in another way than by our release; `source`, `reason` as in PS3.8 9.3.8."""

    def __init__(self, message: str, source: int = 0, reason: int = 0) -> None:
        super().__init__(message)
        self.source = source
        self.reason = reason


class ConnectionLost(AssociationAborted):
    """The TCP connection broke without an A-ABORT."""


class PeerReleased(AssociationAborted):
    """The peer asked for release while we still wanted something of it."""


class PeerBroken(AssociationAborted):
    """The peer broke the protocol and we aborted."""


class AnswerTimeout(UpperError):
    """The peer was silent for too long; the association was aborted and must not be used again.

    `requesting`: it was the association request that had no answer.
    """

    def __init__(self, message: str, *, requesting: bool = False) -> None:
        super().__init__(message)
        self.requesting = requesting
