"""The points at which the suite kills (`relaypacs.failpoint`), in the order in which an object meets them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import relaypacs


@dataclass(frozen=True, slots=True)
class Point:
    """`passages`: the kill comes at one of the first so many.

    `keep` and `rows` are the `[staging] keep` and `[jobs] keep` it needs, empty for any; `bucket`: only a node whose
    staging is object storage gets there; `folder`: only one whose staging is not; `anew`: only one that must associate
    with its destinations, as after its start; `away`: only one of whose destinations does not answer and has a
    fallback.
    """

    name: str
    what: str
    passages: int = 8
    keep: str = ""
    rows: str = ""
    bucket: bool = False
    folder: bool = False
    anew: bool = False
    away: bool = False


POINTS = (
    Point("edge.accepted", "a connection was accepted", 3),
    Point("edge.mid-request", "half an A-ASSOCIATE-RQ has come", 2),
    Point("serving.associated", "the A-ASSOCIATE-AC was sent", 3),
    Point("reader.mid-command", "half a C-STORE-RQ has come", 4),
    Point("reader.mid-dataset", "part of a dataset has come"),
    Point("append.mid-dataset", "part of a dataset was written", 3),
    Point("lane.last-pdv", "the last fragment has come, the tail is not written"),
    Point("append.commit", "the record is about to be finished"),
    Point("segment.before-sync", "the record's header is written, not synced"),
    Point("append.synced", "synced; nobody was told"),
    Point("lane.committed", "hint sent, no answer yet"),
    Point("lane.answered", "the C-STORE-RSP was sent"),
    Point("segment.reused", "a freed segment has its new name and its old content", 2),
    Point("intake.read", "a batch was read from the spool"),
    Point("jobs.mid-take-in", "instances are written, deliveries are not"),
    Point("jobs.checkpoint", "all rows are written but the checkpoint"),
    Point("jobs.before-commit", "COMMIT is about to be sent", 30),
    Point("jobs.after-commit", "COMMIT was answered, nobody knows yet", 30),
    Point("intake.committed", "rows are committed, nobody was woken"),
    Point("sweep.announced", "rows name the files that will be, none is there", 2, folder=True),
    Point("sweep.copied", "files are in staging, not synced", 2),
    Point("sweep.synced", "files are durable, rows don't name them", 2, folder=True),
    Point("s3.putting", "an object is about to be put to the bucket", bucket=True),
    Point("s3.part-put", "a part of a long object is in the bucket", 4, bucket=True),
    Point("s3.put", "an object is in the bucket, nobody else knows", bucket=True),
    Point("sweep.staged", "rows name the staged files", 2),
    Point("receipts.staged", "what a modality waits for is in object storage, it is not told yet", 4, bucket=True),
    Point("forward.claimed", "a batch is leased", 5),
    Point("forward.associated", "the destination accepted the association", 1, anew=True),
    Point("stream.mid-send", "part of an object has left", 2),
    Point("forward.sent", "the last fragment has left, no answer yet", 20),
    Point("forward.answered", "the destination has answered", 20),
    Point("stow.mid-body", "part of a STOW-RS request's body has left", 12),
    Point("stow.sent", "the whole request has left, the response is unread", 4),
    Point("stow.answered", "the response is read, nothing of it is noted", 4),
    Point("forward.unsettled", "outcomes are gathered, not settled", 6),
    Point("forward.settled", "outcomes are settled, nobody knows yet", 6),
    Point("jobs.mid-give", "what waits is queued for the fallback, and has not ended where it waited", 2, away=True),
    Point("segment.freed", "a segment's file is free, the folder not synced", 2),
    Point("sweep.freed", "a segment is free, its checkpoint is there", 2),
    Point("sweep.purging", "a file is chosen for deletion", 2, "none"),
    Point("sweep.purged", "files are deleted, rows don't know", 1, "none"),
    Point("jobs.mid-forget", "rows that are over are deleted, not yet counted", 2, "none", "none"),
)
ELSEWHERE = {"trail.sent": "tests/flow/test_audit.py", "jobs.mid-carry": "tests/contract/test_jobs/test_crash.py"}
"""Points that no object passes, and the test that kills there."""
BY_NAME = {point.name: point for point in POINTS}

STOPS = (
    "forward.claimed",
    "stream.mid-send",
    "forward.sent",
    "forward.answered",
    "stow.mid-body",
    "stow.sent",
    "stow.answered",
    "forward.unsettled",
)
"""Where a worker is paused past its lease: whatever it does afterwards, it does under a token that is not its own."""


def places() -> dict[str, str]:
    """The modules that reach each point, by its name."""
    package = Path(relaypacs.__file__).parent
    found: dict[str, str] = {}
    for path in sorted(package.rglob("*.py")):
        # The docstring of `failpoint` names one that is none.
        for name in re.findall(r'\breach\("([a-z0-9.-]+)"\)', path.read_text() if path.name != "failpoint.py" else ""):
            found[name] = str(path.relative_to(package))
    return found
