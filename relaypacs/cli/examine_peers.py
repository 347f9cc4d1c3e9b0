"""What `doctor` asks others: the job table, Redis, staging, the certificates, each destination.

Nothing is changed anywhere: the job table is read, the bucket is looked at, destinations get one C-ECHO or search.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from relaypacs.cli.finding import Finding, Grade
from relaypacs.errors import ConfigError, JobsError, RelayPacsError

if TYPE_CHECKING:
    from relaypacs.config import Config

_SLOW_SECONDS = 0.05
_SECRETS = ("_PASSWORD_FILE", "_TOKEN_FILE", "_SECRET_KEY_FILE", "_URL_FILE", "_DSN_FILE", "_CLIENT_SECRET_FILE")
_EXPIRES_SOON_SECONDS = 30 * 86400
_COLLECTOR_SECONDS = 5.0
_OTHERS = 0o007
"""Permissions of neither owner nor group."""


def job_table(config: Config, *, ran_before: bool) -> Iterator[Finding]:
    """Whether it is there, of this version, and quick."""
    from relaypacs.jobs.store import JobStore

    file = config.jobs_file
    if file is not None and not file.exists():
        grade = Grade.WARNING if ran_before else Grade.NOTE
        yield Finding("job table", grade, f"there is none at {file} yet", "`relaypacs serve` makes it")
        return
    try:
        store = JobStore.open(config.jobs_url, identifiers=config.node.identifiers)
    except JobsError as problem:
        yield Finding("job table", Grade.FAILED, str(problem), "correct [jobs] url")
        return
    try:
        store.check_schema()
        began = time.perf_counter()
        store.ping()
        seconds = time.perf_counter() - began
        said = f"this version's schema, answers in {seconds * 1000:.1f} ms"
        if seconds > _SLOW_SECONDS:
            yield Finding("job table", Grade.WARNING, said, "bring the database nearer: every transaction waits for it")
        else:
            yield Finding("job table", Grade.GOOD, said)
    except JobsError as problem:
        yield Finding("job table", Grade.FAILED, str(problem), "see [jobs] url and the database's log")
    finally:
        store.close()


def redis(config: Config) -> Iterator[Finding]:
    """Whether it answers; the node works without."""
    if not config.redis.configured:
        return
    from relaypacs.wake.link import probe

    problem = probe(config.redis)
    if problem:
        yield Finding("redis", Grade.WARNING, problem, "limits and wake-ups are this node's own until it answers")
    else:
        yield Finding("redis", Grade.GOOD, "answers")


def staging(config: Config) -> Iterator[Finding]:
    """Whether objects can be put there, and lie in an allowed region."""
    if config.staging.kind == "filesystem":
        folder = config.staging_dir
        while not folder.exists():
            folder = folder.parent
        if os.access(folder, os.W_OK | os.X_OK):
            yield Finding("staging", Grade.GOOD, f"{config.staging_dir} can be written")
        else:
            there = folder == config.staging_dir  # never advise to give away a folder above it, such as /var/lib
            make = f"make {config.staging_dir}, owned by the node's user"
            mend = "give it to the node's user (chown)" if there else make
            yield Finding("staging", Grade.FAILED, f"{folder} can't be written by this user", mend)
        return
    from relaypacs.node.stores import staging_of
    from relaypacs.staging.s3 import S3Staging

    try:
        bucket = staging_of(config)
        if isinstance(bucket, S3Staging):
            bucket.check()
    except RelayPacsError as problem:
        mend = "correct [staging]; `relaypacs staging init` makes and prepares a bucket"
        yield Finding("staging", Grade.FAILED, str(problem), mend)
    else:
        yield Finding("staging", Grade.GOOD, f"bucket {config.staging.bucket} can be used")


def certificates(config: Config) -> Iterator[Finding]:
    """Of the listeners, and those shown to others: usable, and for how long."""
    from relaypacs.config.certificates import shown_certificates
    from relaypacs.receive.certificates import Certificates
    from relaypacs.sidecar.https import Https
    from relaypacs.upper.expiry import first_expiry

    def shown(path: Path) -> float:
        try:
            return first_expiry(path.read_text(encoding="ascii", errors="replace"))
        except (ValueError, IndexError):
            raise OSError(f"{path}: holds no certificate in PEM that can be read") from None

    if config.tls.listen:
        yield _certificate("certificate", lambda: Certificates(config.tls).not_after, "[tls] certificate")
    if config.sidecar.certificate:
        yield _certificate("sidecar certificate", lambda: Https(config.sidecar).not_after, "[sidecar] certificate")
    for use, path in shown_certificates(config).items():
        yield _certificate(f"{use} certificate", partial(shown, path), "tls_certificate")


def _certificate(what: str, expiry: Callable[[], float], options: str) -> Finding:
    """`expiry`: when the one in use expires, in seconds since 1970; OSError if it can't be used."""
    try:
        ends_at = expiry()
    except OSError as problem:
        return Finding(what, Grade.FAILED, _why(problem), f"correct {options} and what belongs to it")
    left, until = ends_at - time.time(), f"valid until {datetime.fromtimestamp(ends_at, UTC):%Y-%m-%d}"
    if left < 0:
        return Finding(what, Grade.FAILED, f"it was {until}", "renew it: it is refused")
    if left < _EXPIRES_SOON_SECONDS:
        return Finding(what, Grade.WARNING, until, "renew it: a new file is taken without restart")
    return Finding(what, Grade.GOOD, until)


def _why(problem: OSError) -> str:
    where = f"{problem.filename}: " if problem.filename else ""
    return where + (problem.strerror or str(problem))


def audit(config: Config) -> Iterator[Finding]:
    """Whether the collector lets this node in; it is sent nothing."""
    if not config.audit.collector:
        return
    from relaypacs.trail.collector import Collector, CollectorDown

    try:
        Collector(config.audit, silence_seconds=_COLLECTOR_SECONDS).hand_over([])
    except CollectorDown as problem:
        yield Finding("audit collector", Grade.FAILED, str(problem), "audit messages wait in the job table meanwhile")
    else:
        yield Finding("audit collector", Grade.GOOD, f"{config.audit.collector} lets this node in")


def destinations(config: Config, environment: Mapping[str, str]) -> Iterator[Finding]:
    """One C-ECHO or search each."""
    from relaypacs.forward.echo import echo

    for one in config.destination:
        name = f"destination {one.name}"
        try:
            answer = echo(one, calling_ae=config.receive.ae_titles[0], environment=environment)
        except ConfigError as problem:
            yield Finding(name, Grade.FAILED, str(problem), "set the secret where this command and the node see it")
            continue
        if answer.ok:
            yield Finding(name, Grade.GOOD, f"{answer.sentence} in {answer.milliseconds:.0f} ms")
        elif answer.answers:
            mend = f"objects are sent there all the same; relaypacs destination test {one.name} tells more"
            yield Finding(name, Grade.WARNING, answer.sentence, mend)
        else:
            yield Finding(name, Grade.FAILED, answer.sentence, "objects wait meanwhile; nothing is lost")
    if not config.destination:
        yield Finding("destinations", Grade.WARNING, "none is configured", "add a [[destination]] and a [[rule]]")
    if not config.caller:
        yield Finding("callers", Grade.WARNING, "nobody may send", "add a [[caller]]")


def secret_files(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Files that hold secrets must not be readable for everyone."""
    names = [
        Path(value) for key, value in sorted(environment.items()) if key.endswith(_SECRETS) and value.startswith("/")
    ]
    for path in names:
        try:
            mode = path.stat().st_mode
        except OSError as problem:
            yield Finding(f"secret {path.name}", Grade.FAILED, f"{path}: {problem.strerror}", "correct the variable")
            continue
        if mode & _OTHERS:
            yield Finding(f"secret {path.name}", Grade.WARNING, f"{path} can be read by others", f"chmod 600 {path}")
