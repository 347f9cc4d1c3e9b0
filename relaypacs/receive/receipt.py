"""The wait between an object's commit to the spool and its answer, for callers with `ack = "staged"`.

Each association waits in its own thread, so the others keep their pace. When the deadline is over the answer is A700:
the object is in the spool and will be relayed all the same, and the modality sends it again.
"""

from __future__ import annotations

from pathlib import Path

from prometheus_client import Histogram

from relaypacs.config.model import Caller
from relaypacs.model import Committed
from relaypacs.wake.receipts import ReceiptAsker

_SECONDS = Histogram(
    "relaypacs_receipt_seconds",
    "From an object's commit to the spool to its receipt from staging, or to the end of the wait.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60),
)


class Receipts:
    """A receive process's receipts."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        """`path`: the relay process's socket."""
        self._asker, self._timeout_seconds = ReceiptAsker(path), timeout_seconds

    def wanted_by(self, caller: Caller) -> bool:
        """Whether this caller's objects are answered only with a receipt."""
        return caller.ack == "staged"

    def wait(self, committed: Committed, sop_instance_uid: str) -> bool:
        """Whether the object is in staging and its rows are committed; False when the time is over."""
        with _SECONDS.time():
            return self._asker.wait(committed, sop_instance_uid, self._timeout_seconds)

    def close(self) -> None:
        """Ask no more."""
        self._asker.close()
