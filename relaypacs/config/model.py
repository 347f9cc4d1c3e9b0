"""Every option there is, with its default, bounds and one sentence of meaning.

`conf/relaypacs.toml` is rendered from these models (`config.reference`), so a description here is documentation.
Pure: nothing is read from disk, environment or clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from relaypacs.config.audit import Audit
from relaypacs.config.destination import Destination
from relaypacs.config.options import (
    File,
    Folder,
    Name,
    Pattern,
    Seconds,
    Tag,
    lower_case,
)
from relaypacs.config.reception import Caller, Receive
from relaypacs.config.redis import Redis
from relaypacs.config.section import Section
from relaypacs.config.sentry import Sentry
from relaypacs.config.sidecar import Sidecar
from relaypacs.config.stores import Jobs, Staging
from relaypacs.config.tls import Tls

__all__ = [
    "Audit",
    "Caller",
    "Config",
    "Destination",
    "Jobs",
    "Log",
    "Node",
    "Receive",
    "Redis",
    "Routing",
    "Rule",
    "Section",
    "Sentry",
    "Sidecar",
    "Spool",
    "Staging",
    "Tls",
]


class Node(Section):
    """[node]: who this node is and where it keeps its state."""

    name: Name = Field("relaypacs", description="This node's name in rows, metrics and logs; unique per node.")
    state_dir: Folder = Field(
        Path("/var/lib/relaypacs"),
        description="Folder for everything the node keeps: spool, staging, job table, keys. Local disk, never a network share.",
    )
    profile: Literal["development", "staging", "production", "dr"] = Field(
        "development",
        description="How strict the configuration is read. production and dr refuse what is not fit for patients' data (docs/configuration.md); staging warns of it.",
    )
    allow_plaintext: tuple[str, ...] = Field(
        (),
        description="What production may leave unencrypted: `receive`, `sidecar`, `jobs`, `redis`, `staging`, or names of destinations.",
    )
    identifiers: bool = Field(
        True,
        description="Keep accession number and patient ID in the job table, so that `trace` finds them. Names are never kept.",
    )


class Log(Section):
    """[log]: what the node tells, and where."""

    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(lower_case)] = Field(
        "info", description="Least level that is written. LOG_LEVEL overrides it; DEBUG=true means debug."
    )
    format: Literal["json", "text"] = Field("json", description="One JSON object per line, or text for people.")
    file: File = Field(
        "",
        description="File to write to instead of standard error; opened anew when it is renamed (docs/monitoring.md).",
    )


class Spool(Section):
    """[spool]: the write-ahead log on local disk."""

    dir: Folder | None = Field(None, description="Folder of the spool. Default: <state_dir>/spool.")
    segment_bytes: Annotated[int, Field(ge=1 << 20, le=4 << 30)] = Field(
        64 << 20, description="Size at which a segment is sealed, in bytes."
    )
    min_free_bytes: Annotated[int, Field(ge=0)] = Field(
        1 << 30, description="Free space below which objects are refused (A700, RJ 2/3/2), in bytes."
    )
    max_object_bytes: Annotated[int, Field(ge=1 << 20)] = Field(
        64 << 30, description="Largest dataset accepted, in bytes; a larger one is answered A700."
    )
    recycle: bool = Field(
        True, description="Reuse freed segments (faster syncs). Set false on copy-on-write file systems (btrfs, zfs)."
    )
    recycle_segments: Annotated[int, Field(ge=0, le=1000)] = Field(
        8, description="Freed segments kept for reuse; more are deleted."
    )


class Rule(Section):
    """[[rule]]: which instances go where. Every rule that matches adds its destinations; a matching drop wins.

    A pattern is a glob (`CT_*`), or a regular expression after `re:` that must match the whole value.
    """

    name: Name = Field(..., description="Name shown by `trace`.")
    calling_ae: Pattern = Field("", description="Pattern for the calling AE title.")
    called_ae: Pattern = Field("", description="Pattern for the called AE title.")
    modality: Pattern = Field("", description="Pattern for Modality (0008,0060); upper or lower case.")
    sop_class: Pattern = Field("", description="Pattern for the SOP Class UID or its name.")
    tags: dict[Tag, Pattern] = Field(
        default_factory=dict,
        description="Patterns for any element of the head, by keyword or GGGG,EEEE.",
    )
    to: tuple[str, ...] = Field((), description="Destinations.")
    priority: Annotated[int, Field(ge=0, le=9)] = Field(0, description="Higher is sent first.")
    drop: bool = Field(False, description="Accept and deliver nowhere; counted as dropped.")

    def inconsistencies(self) -> Iterator[str]:
        """Both ways to say where to, or neither."""
        if self.drop == bool(self.to):
            yield "give `to` or `drop = true`, one of them"


class Routing(Section):
    """[routing]: what happens when no rule matched."""

    default: tuple[str, ...] = Field(
        (), description="Destinations when no rule matched; empty leaves the instance visibly unrouted."
    )
    study_quiet_seconds: Seconds = Field(
        60.0, description="A study of which nothing came or is owed for so long is said to be complete, in seconds."
    )


class Config(Section):
    """The whole file."""

    node: Node = Field(default_factory=lambda: Node())
    log: Log = Field(default_factory=lambda: Log())
    receive: Receive = Field(default_factory=lambda: Receive())
    tls: Tls = Field(default_factory=lambda: Tls())
    caller: tuple[Caller, ...] = ()
    spool: Spool = Field(default_factory=lambda: Spool())
    staging: Staging = Field(default_factory=lambda: Staging())
    jobs: Jobs = Field(default_factory=lambda: Jobs())
    destination: tuple[Destination, ...] = ()
    rule: tuple[Rule, ...] = ()
    routing: Routing = Field(default_factory=lambda: Routing())
    redis: Redis = Field(default_factory=lambda: Redis())
    sidecar: Sidecar = Field(default_factory=lambda: Sidecar())
    sentry: Sentry = Field(default_factory=lambda: Sentry())
    audit: Audit = Field(default_factory=lambda: Audit())

    @property
    def spool_dir(self) -> Path:
        """Folder of the spool."""
        return self.spool.dir or self.node.state_dir / "spool"

    @property
    def staging_dir(self) -> Path:
        """Folder of the staged files."""
        return self.staging.dir or self.node.state_dir / "staging"

    @property
    def staging_trouble_file(self) -> Path:
        """Where the relay process notes why staging fails; absent while it works."""
        return self.run_dir / "staging.trouble"

    @property
    def run_dir(self) -> Path:
        """Folder of sockets and metrics files; emptied at start."""
        return self.node.state_dir / "run"

    @property
    def jobs_url(self) -> str:
        """SQLAlchemy URL of the job table."""
        return self.jobs.url.get_secret_value() if self.jobs.url else f"sqlite:///{self.node.state_dir}/jobs.sqlite"

    @property
    def draining_file(self) -> Path:
        """While it is there, the node takes no associations: it is being drained."""
        return self.node.state_dir / "draining"

    @property
    def associations_file(self) -> Path:
        """Locked by receive processes while they have associations open."""
        return self.run_dir / "associations"

    @property
    def refusals_file(self) -> Path:
        """What destinations refused: written by the relay process, read by the receive processes."""
        return self.node.state_dir / "refusals.json"

    @property
    def receipt_socket(self) -> Path:
        """Where receive processes ask the relay process for receipts."""
        return self.run_dir / "receipts.sock"

    @property
    def hint_socket(self) -> Path:
        """Where intake listens for hints of the receive processes."""
        return self.run_dir / "intake.sock"

    @property
    def jobs_file(self) -> Path | None:
        """The SQLite file of the job table; None if a server keeps it."""
        scheme, _, path = self.jobs_url.partition(":///")
        return Path(path.partition("?")[0]) if scheme == "sqlite" else None

    @property
    def keep_seconds(self) -> float | None:
        """How long a settled instance stays staged: seconds, or None for ever."""
        return _seconds(self.staging.kept)

    @property
    def keep_rows_seconds(self) -> float | None:
        """How long the rows of an instance that is over and has no bytes stay: seconds, or None for ever."""
        return _seconds(self.jobs.keep)


def _seconds(keep: str) -> float | None:
    return None if keep == "forever" else 0.0 if keep == "none" else float(keep[:-1]) * 86400
