"""A receive process alone: `Receiver` runs one in threads of the test's process, `python -m tests.peers.receiver PORT
FOLDER [KEY=VALUE …]` (of [receive]; `tls_port`, and `tls_KEY` of [tls]) as a process of its own. The spool is a real
one in `folder`, read by a real reader.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relaypacs import log
from relaypacs.config.model import Caller, Config, Receive, Spool, Tls
from relaypacs.model import Checkpoint, EventRecord, ObjectRecord
from relaypacs.node.supervisor import Stop
from relaypacs.receive import process
from relaypacs.receive.certificates import Certificates
from relaypacs.spool.disk import Disk
from relaypacs.spool.reader import SpoolReader
from relaypacs.spool.writer import SpoolWriter
from tests.peers.ports import wait_until


@dataclass(frozen=True, slots=True)
class Stored:
    """An object of the spool: its record, and its dataset's bytes."""

    record: ObjectRecord
    dataset: bytes


def configuration(callers: Sequence[Caller], spool: dict[str, Any], receive: dict[str, Any]) -> Config:
    """A configuration of reception; short timeouts unless given."""
    quick = {"association_request_timeout_seconds": 5.0, "release_timeout_seconds": 2.0, "grace_seconds": 5.0}
    return Config(receive=Receive(**{**quick, **receive}), caller=tuple(callers), spool=Spool(**spool))


def writer(config: Config, folder: Path, disk: Disk | None = None) -> SpoolWriter:
    """The spool writer that a node would give its receive process, on a disk that may fail."""
    return SpoolWriter(
        folder,
        segment_bytes=config.spool.segment_bytes,
        min_free_bytes=config.spool.min_free_bytes,
        max_object_bytes=config.spool.max_object_bytes,
        recycle=config.spool.recycle,
        durable=config.receive.ack == "spooled",
        on_commit=lambda committed: None,
        disk=disk,
    )


class Receiver:
    """Context manager: a receive process in a thread, listening on `port` of 127.0.0.1."""

    def __init__(
        self,
        folder: Path,
        *,
        callers: Sequence[Caller] = (Caller(ae_title="*"),),
        spool: dict[str, Any] | None = None,
        disk: Disk | None = None,
        tls: dict[str, Any] | None = None,
        tables: dict[str, Any] | None = None,
        **receive: Any,
    ) -> None:
        """`tls`: options of [tls]; it listens on `tls_port` then, too. `tables`: others of the configuration."""
        self.config = configuration(callers, {"min_free_bytes": 0, **(spool or {})}, receive)
        self.config = self.config.model_copy(update=tables or {})
        self.tls_port = 0
        self._tls_listeners = []
        if tls is not None:
            self._tls_listeners = [socket.create_server(("127.0.0.1", 0), backlog=512)]
            self.tls_port = self._tls_listeners[0].getsockname()[1]
            section = Tls(listen=(f"127.0.0.1:{self.tls_port}",), **tls)
            self.config = self.config.model_copy(update={"tls": section})
        self.spool = writer(self.config, folder, disk)
        self._folder = folder
        self._log = io.StringIO()
        self.stop_order = Stop()
        self._stopped = False
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._run, name="receiver")

    def _run(self) -> None:
        process.run(
            self.config,
            listeners=[self.listener],
            tls_listeners=self._tls_listeners,
            certificates=Certificates(self.config.tls) if self._tls_listeners else None,
            spool=self.spool,
            stop=self.stop_order,
        )

    def __enter__(self) -> Receiver:
        log.setup(level="debug", json_lines=True, service="receive", stream=self._log)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        log.setup(level="info", json_lines=True, service="relaypacs")

    def stop(self) -> None:
        """Give the order to stop and wait for the end."""
        if self._stopped:
            return
        self._stopped = True
        self.stop_order.set()
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.spool.close()
        os.close(self.stop_order._reader)
        os.close(self.stop_order._writer)

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """The log's lines so far, all or those of one event."""
        found = [json.loads(line) for line in self._log.getvalue().splitlines()]
        return [line for line in found if not event or line["event"] == event]

    def wait_line(self, event: str, count: int = 1) -> dict[str, Any]:
        """The `count`-th line of an event, when it is there."""
        wait_until(lambda: len(self.lines(event)) >= count, f"log line {event}", 10.0, every_seconds=0.01)
        return self.lines(event)[count - 1]

    def records(self) -> list[ObjectRecord | EventRecord]:
        """Everything valid in the spool, in the order of each segment."""
        found: list[ObjectRecord | EventRecord] = []
        with closing(SpoolReader(self._folder, recycle=False, recycle_segments=0)) as reader:
            for generation in reader.generations():
                checkpoint = Checkpoint(generation)
                while True:
                    records, checkpoint = reader.read(checkpoint, committed_end=None)
                    if not records:
                        break
                    found += records
        return found

    def objects(self) -> list[Stored]:
        """The objects in the spool."""
        found = []
        with closing(SpoolReader(self._folder, recycle=False, recycle_segments=0)) as reader:
            for record in self.records():
                if isinstance(record, ObjectRecord):
                    with reader.pin(record.at.generation) as pin:
                        found.append(Stored(record, bytes(pin.view(record.dataset_offset, record.dataset_length))))
        return found

    def ends(self) -> list[dict[str, Any]]:
        """The associations' ends in the spool, without what was refused."""
        return [one for one in self.logged() if one["outcome"] != "rejected"]

    def logged(self) -> list[dict[str, Any]]:
        """The entries of the association log in the spool, with their contexts."""
        found: list[dict[str, Any]] = []
        for record in self.records():
            if isinstance(record, EventRecord) and record.kind == "associations":
                body: Any = record.body
                found += [{**end, "contexts": body["proposals"].get(end["contexts"], "")} for end in body["ends"]]
        return found

    def wait_ends(self, count: int) -> list[dict[str, Any]]:
        """The associations' ends, when there are `count`."""
        wait_until(lambda: len(self.ends()) >= count, "associations ended", 15.0)
        return self.ends()


def main(arguments: Sequence[str]) -> None:
    """Run one until SIGTERM."""
    port, folder = int(arguments[0]), Path(arguments[1])
    receive = dict(word.split("=", 1) for word in arguments[2:])
    log.setup(level="info", json_lines=True, service="receive")
    tls = {key.removeprefix("tls_"): receive.pop(key) for key in list(receive) if key.startswith("tls_")}
    config = configuration((Caller(ae_title="*"),), {"min_free_bytes": 0}, receive)
    tls_listeners = []
    if tls:
        tls_listeners = [socket.create_server(("127.0.0.1", int(tls.pop("port"))), backlog=512)]
        section = Tls(listen=(f"127.0.0.1:{tls_listeners[0].getsockname()[1]}",), **tls)  # type: ignore[arg-type]
        config = config.model_copy(update={"tls": section})
    spool = writer(config, folder)
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    stop = Stop()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    process.run(
        config,
        listeners=[listener],
        tls_listeners=tls_listeners,
        certificates=Certificates(config.tls) if tls else None,
        spool=spool,
        stop=stop,
    )
    spool.close()


if __name__ == "__main__":
    main(sys.argv[1:])
