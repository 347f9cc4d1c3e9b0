"""The association log on a real spool: what was said is there, in few events, and a disk that fails is waited for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from relaypacs.errors import SpoolFull
from relaypacs.model import Checkpoint, EventRecord
from relaypacs.receive.association_log import MOST_WAITING, AssociationLog
from relaypacs.receive.rejections import Refusal
from relaypacs.spool.reader import SpoolReader
from relaypacs.spool.writer import SpoolWriter
from tests.peers.ports import wait_until


def end(number: int, contexts: str = "") -> dict[str, Any]:
    return {"association_id": f"a{number}", "outcome": "released", "objects": number, "contexts": contexts}


def refusal(calling: str = "CT_9") -> Refusal:
    return Refusal("10.1.2.3", "10.1.2.3:4242", calling, "RELAYPACS", "calling-ae", "no", tls=True)


@contextmanager
def spool(folder: Path) -> Iterator[SpoolWriter]:
    writer = SpoolWriter(
        folder,
        segment_bytes=1 << 20,
        min_free_bytes=0,
        max_object_bytes=1 << 20,
        recycle=False,
        durable=True,
        on_commit=lambda _: None,
    )
    try:
        yield writer
    finally:
        writer.close()


def events(folder: Path) -> list[Mapping[str, Any]]:
    reader = SpoolReader(folder, recycle=False, recycle_segments=0)
    found: list[Mapping[str, Any]] = []
    for generation in reader.generations():
        records, _ = reader.read(Checkpoint(generation), committed_end=None)
        found += [one.body for one in records if isinstance(one, EventRecord)]
    return found


def ends(folder: Path) -> list[Mapping[str, Any]]:
    return [one for event in events(folder) for one in event["ends"]]


def test_what_was_said_is_written_together_and_at_the_close(tmp_path: Path) -> None:
    with spool(tmp_path) as writer:
        log = AssociationLog(writer.append_event)
        for number in range(100):
            log.ended(end(number, "[same]"))
        log.rejected(refusal())
        log.start()
        wait_until(lambda: len(ends(tmp_path)) == 101, "entries in the spool", 10.0)
        log.rejected(refusal())
        log.ended(end(100))
        log.close()
    assert len(events(tmp_path)) == 2
    assert list(events(tmp_path)[0]["proposals"].values()) == ["[same]"]
    written = ends(tmp_path)
    assert [one["objects"] for one in written if one["outcome"] == "released"] == list(range(101))
    first, second = (one for one in written if one["outcome"] == "rejected")
    assert (first["tries"], second["tries"]) == (1, 2)
    assert first["association_id"] == second["association_id"]
    assert (first["calling_ae"], first["word"], first["tls"]) == ("CT_9", "calling-ae", True)


def test_events_stay_small(tmp_path: Path) -> None:
    with spool(tmp_path) as writer:
        log = AssociationLog(writer.append_event)
        for number in range(50):
            log.ended(end(number, f"{number}" + "x" * 15_000))
        log.start()
        log.close()
    assert [one["objects"] for one in ends(tmp_path)] == list(range(50))
    assert max(len(json.dumps(event)) for event in events(tmp_path)) < 90_000
    for event in events(tmp_path):
        assert {one["contexts"] for one in event["ends"]} == event["proposals"].keys()


@pytest.mark.parametrize(("first", "then"), [(10, 0), (10, MOST_WAITING + 500)])
def test_a_disk_that_refuses_is_waited_for_and_nobody_waits_with_it(tmp_path: Path, first: int, then: int) -> None:
    full, refused = threading.Event(), threading.Event()
    full.set()
    with spool(tmp_path) as writer:

        def append(kind: str, time: float, body: Mapping[str, object]) -> object:
            if full.is_set():
                refused.set()
                raise SpoolFull("full")
            return writer.append_event(kind, time, body)

        log = AssociationLog(append)
        for number in range(first):
            log.ended(end(number))
        for number in range(1000):
            log.rejected(refusal(f"CT_{number}"))
        log.start()
        assert refused.wait(10.0)
        for number in range(first, first + then):
            log.ended(end(number))
        full.clear()
        log.close()
    written = ends(tmp_path)
    released = [one["objects"] for one in written if one["outcome"] == "released"]
    tried = sum(one["tries"] for one in written if one["outcome"] == "rejected")
    if then:  # the oldest of too many were given up
        assert released == list(range(first + then - MOST_WAITING, first + then))
        assert tried == 0
    else:
        assert released == list(range(first))
        assert tried == 1000


def test_a_spool_that_fails_to_the_end_is_no_obstacle_to_the_end() -> None:
    def append(_kind: str, _time: float, _body: Mapping[str, object]) -> object:
        raise SpoolFull("full")

    log = AssociationLog(append)
    log.start()
    log.ended(end(1))
    log.close()
    assert not log._thread.is_alive()
