"""The points at which the suite kills (`relaypacs.failpoint`), in the order in which an object meets them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """`where`: the module that reaches it. `passages`: the kill comes at one of the first so many.

    `keep` and `rows` are the `[staging] keep` and `[jobs] keep` it needs, empty for any.
    """

    name: str
    where: str
    what: str
    passages: int = 8
    keep: str = ""
    rows: str = ""


POINTS = (
    Point("edge.accepted", "receive/doors.py", "a connection was accepted", 3),
    Point("edge.mid-request", "receive/edge.py", "half an A-ASSOCIATE-RQ has come", 2),
    Point("serving.associated", "receive/serving.py", "the A-ASSOCIATE-AC was sent", 3),
    Point("reader.mid-command", "upper/reader.py", "half a C-STORE-RQ has come", 4),
    Point("reader.mid-dataset", "upper/reader.py", "part of a dataset has come"),
    Point("append.mid-dataset", "spool/append.py", "part of a dataset was written", 3),
    Point("lane.last-pdv", "receive/lane.py", "the last fragment has come, the tail is not written"),
    Point("append.commit", "spool/append.py", "the record is about to be finished"),
    Point("segment.before-sync", "spool/segment.py", "the record's header is written, not synced"),
    Point("append.synced", "spool/append.py", "synced; nobody was told"),
    Point("lane.committed", "receive/lane.py", "hint sent, no answer yet"),
    Point("lane.answered", "receive/lane.py", "the C-STORE-RSP was sent"),
    Point("segment.reused", "spool/segment.py", "a freed segment has its new name and its old content", 2),
    Point("intake.read", "intake/reading.py", "a batch was read from the spool"),
    Point("jobs.mid-take-in", "jobs/intake.py", "instances are written, deliveries are not"),
    Point("jobs.checkpoint", "jobs/intake.py", "all rows are written but the checkpoint"),
    Point("jobs.before-commit", "jobs/store.py", "COMMIT is about to be sent", 30),
    Point("jobs.after-commit", "jobs/store.py", "COMMIT was answered, nobody knows yet", 30),
    Point("intake.committed", "intake/reading.py", "rows are committed, nobody was woken"),
    Point("sweep.announced", "stager.py", "rows name the files that will be, none is there", 2),
    Point("sweep.copied", "stager.py", "files are in staging, not synced", 2),
    Point("sweep.synced", "stager.py", "files are durable, rows don't name them", 2),
    Point("sweep.staged", "stager.py", "rows name the staged files", 2),
    Point("forward.claimed", "forward/worker.py", "a batch is leased", 5),
    Point("forward.associated", "forward/lane.py", "the destination accepted the association", 1),
    Point("stream.mid-send", "upper/stream.py", "part of an object has left", 2),
    Point("forward.sent", "forward/lane.py", "the last fragment has left, no answer yet", 20),
    Point("forward.answered", "forward/lane.py", "the destination has answered", 20),
    Point("stow.mid-body", "forward/stow.py", "part of a STOW-RS request's body has left", 12),
    Point("stow.sent", "forward/stow.py", "the whole request has left, the response is unread", 4),
    Point("stow.answered", "forward/stow.py", "the response is read, nothing of it is noted", 4),
    Point("forward.unsettled", "forward/settle.py", "outcomes are gathered, not settled", 6),
    Point("forward.settled", "forward/settle.py", "outcomes are settled, nobody knows yet", 6),
    Point("segment.freed", "spool/reader.py", "a segment's file is free, the folder not synced", 2),
    Point("sweep.freed", "sweep.py", "a segment is free, its checkpoint is there", 2),
    Point("sweep.purging", "sweep.py", "a file is chosen for deletion", 2, "none"),
    Point("sweep.purged", "sweep.py", "files are deleted, rows don't know", 1, "none"),
    Point("jobs.mid-forget", "jobs/retention.py", "rows that are over are deleted, not yet counted", 2, "none", "none"),
)
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
