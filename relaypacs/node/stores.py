"""Which staging a node has, chosen by its configuration."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from relaypacs import log
from relaypacs.config import Config
from relaypacs.config.secrets import storage_keys
from relaypacs.errors import StagingError
from relaypacs.intake import Intake
from relaypacs.jobs.store import JobStore
from relaypacs.receipts import ReceiptDesk
from relaypacs.spool.reader import SpoolReader
from relaypacs.stager import Stager
from relaypacs.staging.filesystem import FilesystemStaging
from relaypacs.staging.protocol import Staging
from relaypacs.wake.receipts import ReceiptSocket

_START_SECONDS = 3.0
_LOOK_SECONDS = 10.0


def is_shared(config: Config) -> bool:
    """Whether other nodes have the same staging."""
    return config.staging.kind == "s3"


def staging_of(config: Config, *, puts: bool = False) -> Staging:
    """The staging of the configuration; `puts`: for the one process that puts to it.

    Object storage is not asked before it is used. StagingError where a folder can't be made.
    """
    if config.staging.kind == "s3":
        # Loaded only here: boto3 takes 30 MB and a quarter of a second.
        from relaypacs.staging.s3 import S3Staging

        return S3Staging(
            config.staging,
            lambda: storage_keys(config.staging, os.environ),
            # A command beside the node may run as somebody else.
            scratch=config.run_dir if os.access(config.run_dir, os.W_OK) else Path(tempfile.gettempdir()),
            leave_free_bytes=config.spool.min_free_bytes // 2,
        )
    return FilesystemStaging(config.staging_dir, only_one_that_puts=puts)


def residency_problem(config: Config) -> str:
    """Why nothing may be stored in the configured bucket: it lies in a region that is not allowed. Else nothing.

    Asked at start, within a few seconds; what can't be asked now is no reason not to start: it is asked again before
    the first put.
    """
    if config.staging.kind != "s3" or not config.staging.allowed_regions:
        return ""
    # In a process of its own: this one is about to fork, and would carry boto3 in all of them.
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            from relaypacs.staging.s3_bucket import misplaced

            keys = storage_keys(config.staging, os.environ)
            os.write(writing, misplaced(config.staging, keys, timeout_seconds=_START_SECONDS).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as said:
        problem = said.read()
    os.waitpid(child, 0)
    return problem


def wants_receipts(config: Config) -> bool:
    """Whether some caller's objects are answered only when they are staged."""
    return any(caller.ack == "staged" for caller in config.caller)


def desk_of(
    config: Config, *, reader: SpoolReader, jobs: JobStore, staging: Staging, rows: Intake, hash_key: bytes
) -> ReceiptDesk | None:
    """The receipt desk, if some caller wants receipts. OSError if its socket can't be made."""
    if not wants_receipts(config):
        return None
    stager = Stager(
        node=config.node.name,
        reader=reader,
        jobs=jobs,
        staging=staging,
        segment_gone=rows.forgotten,
        hash_key=hash_key,
        date=config.staging.date,
        shared=is_shared(config),
        puts_at_once=config.staging.puts_at_once,
    )
    return ReceiptDesk(
        ReceiptSocket(config.receipt_socket),
        node=config.node.name,
        rows=rows,
        jobs=jobs,
        stager=stager,
    )


class StagingWatch:
    """Keeps `staging_trouble_file`, which `/readyz` reads: what the sweep says, or what a look every 10 s finds.

    The look tells of storage that is down while nothing is staged. A folder needs none: readiness looks itself.
    """

    def __init__(self, config: Config, on_look: Callable[[], None] = lambda: None) -> None:
        """`on_look` is called each time: other nodes' deliveries may be anybody's by now."""
        self._on_look = on_look
        self._file = config.staging_trouble_file
        self._lock = threading.Lock()
        self._why = {"sweep": "", "look": ""}
        self._looking = config.staging.kind == "s3"
        # What an earlier life of the relay process said is over.
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
        quick = {"attempts": 1, "connect_timeout_seconds": _START_SECONDS, "read_timeout_seconds": _LOOK_SECONDS}
        self._config = config.model_copy(update={"staging": config.staging.model_copy(update=quick)})

    def run(self, stopped: threading.Event) -> None:
        """Look until `stopped`."""
        if not self._looking:
            return
        from relaypacs.staging.s3 import S3Staging

        staging = staging_of(self._config)
        assert isinstance(staging, S3Staging)
        while not stopped.is_set():
            try:
                staging.check()
            except StagingError as problem:
                self._note("look", str(problem))
            else:
                self._note("look", "")
                self._on_look()
            stopped.wait(_LOOK_SECONDS)

    def sweep_says(self, why: str) -> None:
        """Why staging or freeing fails, or (nothing) that it works again."""
        self._note("sweep", why)

    def _note(self, who: str, why: str) -> None:
        with self._lock:
            before = self._why["sweep"] or self._why["look"]
            self._why[who] = why
            now = self._why["sweep"] or self._why["look"]
            if now == before:
                return
            if who == "look":
                up = "Object storage answers again."
                log.event(log.ERROR if now else log.INFO, "staging-down" if now else "staging-up", now or up)
            # For people only: where it can't be written, there is worse to tell.
            with contextlib.suppress(OSError):
                if now:
                    draft = self._file.with_suffix(".new")
                    draft.write_text(now, encoding="utf-8")
                    draft.rename(self._file)
                else:
                    self._file.unlink(missing_ok=True)
