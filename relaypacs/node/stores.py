"""Which staging a node has, chosen by its configuration."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from relaypacs.config import Config
from relaypacs.config.secrets import storage_keys
from relaypacs.staging.filesystem import FilesystemStaging
from relaypacs.staging.protocol import Staging

_START_SECONDS = 3.0


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


def tell_trouble(config: Config, why: str) -> None:
    """Note why staging fails, or (nothing) that it works again. Never raises: it is only for people."""
    place = config.staging_trouble_file
    try:
        if why:
            draft = place.with_suffix(".new")
            draft.write_text(why, encoding="utf-8")
            draft.rename(place)
        else:
            place.unlink(missing_ok=True)
    except OSError:
        return
