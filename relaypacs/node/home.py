"""The node's folders and its key: made at start, private to its user (they hold patients' data)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from pathlib import Path

from relaypacs.config import Config
from relaypacs.errors import ConfigError

_KEY_BYTES = 32


def prepare(config: Config) -> bytes:
    """Make the node's folders and return the key of its opaque names and hashes.

    ConfigError with a sentence if a folder can't be made or written.
    """
    os.umask(0o077)
    try:
        staging = () if config.staging.kind == "s3" else (config.staging_dir,)
        for folder in (config.node.state_dir, config.spool_dir, *staging, config.run_dir):
            folder.mkdir(parents=True, exist_ok=True)
        return hash_key(config.node.state_dir)
    except OSError as problem:
        raise ConfigError(
            [f"{problem.filename}: {problem.strerror}; let [node] state_dir name a folder this user may write"]
        ) from None


def empty_run_dir(run_dir: Path) -> None:
    """Remove what an earlier life left: sockets and locks. Call it with the spool locked."""
    for entry in run_dir.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def metrics_dir(run_dir: Path, *, fresh: bool) -> Path:
    """Make (`fresh`: anew and empty) the folder where prometheus-client's processes keep their samples.

    They are mapped files, and touching a new page of one on a full disk kills the process: so in memory where there is
    a /dev/shm of ours, else in `run_dir`.
    """
    name = hashlib.sha256(os.fsencode(run_dir.absolute())).hexdigest()[:16]
    for place in (Path("/dev/shm") / f"relaypacs-{os.geteuid()}-{name}", run_dir / "metrics"):
        if fresh:
            shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, exist_ok=not fresh)
            if place.stat().st_uid == os.geteuid():
                return place
    raise ConfigError(
        [f"{run_dir}: no folder for metrics can be made; let [node] state_dir name one this user may write"]
    )


def hash_key(state_dir: Path) -> bytes:
    """The node's key: RELAYPACS_HASH_KEY (or …_FILE), else a random one made once and kept in `hash.key`.

    Staged files' names and logged hashes derive from it; a changed key makes new names, and loses nothing.
    """
    given = os.environ.get("RELAYPACS_HASH_KEY", "")
    named = os.environ.get("RELAYPACS_HASH_KEY_FILE", "")
    if named:
        try:
            given = Path(named).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            raise ConfigError([f"RELAYPACS_HASH_KEY_FILE names {named!r}, which can't be read"]) from None
    if given:
        return given.encode()
    place = state_dir / "hash.key"
    with contextlib.suppress(FileExistsError):
        # Written whole under another name first: a crash leaves no empty key.
        draft = state_dir / f"hash.key.{os.getpid()}"
        draft.write_text(secrets.token_hex(_KEY_BYTES), encoding="ascii")
        try:
            os.link(draft, place)
        finally:
            draft.unlink()
    return place.read_text(encoding="ascii").strip().encode()
