"""Every option there is, with its default, bounds and one sentence of meaning.

`conf/relaypacs.toml` is rendered from these models (`config.reference`), so a description here is documentation.
Pure: nothing is read from disk, environment or clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from relaypacs.config.destination import Destination
from relaypacs.config.options import (
    AeTitle,
    CallerPattern,
    Endpoint,
    Folder,
    Host,
    JobsUrl,
    Keep,
    Name,
    Network,
    Pattern,
    Port,
    Seconds,
    Tag,
    Uid,
    lower_case,
)
from relaypacs.config.section import Section

__all__ = [
    "Caller",
    "Config",
    "Destination",
    "Jobs",
    "Log",
    "Node",
    "Receive",
    "Routing",
    "Rule",
    "Section",
    "Sidecar",
    "Spool",
    "Staging",
]


class Node(Section):
    """[node]: who this node is and where it keeps its state."""

    name: Name = Field("relaypacs", description="This node's name in rows, metrics and logs; unique per node.")
    state_dir: Folder = Field(
        Path("/var/lib/relaypacs"),
        description="Folder for everything the node keeps: spool, staging, job table, keys. Local disk, never a network share.",
    )
    identifiers: bool = Field(
        True,
        description="Keep accession number and patient ID in the job table, so that `trace` finds them. Names are never kept.",
    )


class Log(Section):
    """[log]: what the node writes to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(lower_case)] = Field(
        "info", description="Least level that is written. LOG_LEVEL overrides it; DEBUG=true means debug."
    )
    format: Literal["json", "text"] = Field("json", description="One JSON object per line, or text for people.")


class Receive(Section):
    """[receive]: the C-STORE and C-ECHO SCP."""

    host: Host = Field(
        "0.0.0.0", description="Address to listen on; `::` is every IPv6 address, and IPv4 where nothing else listens."
    )
    port: Port = Field(11112, description="TCP port to listen on (104 needs root only for the supervisor).")
    also_listen: tuple[Endpoint, ...] = Field(
        (), description="Further addresses to listen on: HOST:PORT, or [ADDRESS]:PORT with IPv6."
    )
    ae_titles: tuple[AeTitle, ...] = Field(
        ("RELAYPACS",), min_length=1, description="Called AE titles this node answers to."
    )
    check_called_ae: bool = Field(True, description="Reject (1/1/7) an association for any other called AE title.")
    ae_titles_case_sensitive: bool = Field(
        True, description="Compare AE titles as the standard does; false ignores case."
    )
    processes: Annotated[int, Field(ge=1, le=64)] = Field(2, description="Receive processes sharing the listener.")
    ack: Literal["spooled", "buffered"] = Field(
        "spooled",
        description="When Success is answered. spooled: durable on disk. buffered: NOT durable, for benchmarks only.",
    )
    max_connections: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        10_000, description="Connections open at once in the whole node, with or without association; 0 is no limit."
    )
    max_connections_per_address: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        1_000, description="The same from one address (IPv6: from one /64); 0 is no limit. More get RJ 2/3/2."
    )
    max_associations: Annotated[int, Field(ge=1, le=100_000)] = Field(
        400, description="Associations open at once in the whole node; more get RJ 2/3/2 (transient)."
    )
    max_associations_per_ae: Annotated[int, Field(ge=0, le=100_000)] = Field(
        200, description="The same of one calling AE title; 0 is no limit."
    )
    max_association_rate_per_address: Annotated[float, Field(ge=0, le=1_000_000)] = Field(
        1_000.0,
        description="Association requests per second from one address, with a second's worth at once; more get RJ 2/3/2; 0 is no limit.",
    )
    max_transfer_syntaxes: Annotated[int, Field(ge=1, le=4096)] = Field(
        128, description="Transfer syntaxes proposed in one presentation context; a context with more is refused."
    )
    max_association_request_bytes: Annotated[int, Field(ge=1024, le=16 << 20)] = Field(
        1 << 20, description="Largest A-ASSOCIATE-RQ read, in bytes; a larger one is aborted."
    )
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=1 << 20)] = Field(
        131072, description="Maximum Length Received that is announced, in bytes; a longer P-DATA-TF is aborted."
    )
    max_command_bytes: Annotated[int, Field(ge=512, le=1 << 20)] = Field(
        65536, description="Largest DIMSE command set accepted, in bytes."
    )
    association_request_timeout_seconds: Seconds = Field(
        10.0, description="Time a connection has to send its A-ASSOCIATE-RQ (ARTIM), in seconds."
    )
    pdu_timeout_seconds: Seconds = Field(
        60.0, description="Longest silence in the middle of a PDU or of an object, in seconds; then A-ABORT."
    )
    idle_timeout_seconds: Seconds = Field(
        600.0, description="Longest silence between messages of an open association, in seconds; then A-ABORT."
    )
    release_timeout_seconds: Seconds = Field(
        5.0, description="Time a peer has to close the connection after release, reject or abort, in seconds."
    )
    grace_seconds: Seconds = Field(
        30.0,
        description="On SIGTERM, time that running C-STOREs have to finish before associations are aborted, in seconds.",
    )
    transfer_syntaxes: tuple[Uid, ...] = Field(
        (),
        description="Transfer syntax UIDs to accept; empty accepts every one pynetdicom knows, in the proposer's order.",
    )
    private_sop_classes: tuple[Uid, ...] = Field(
        (), description="SOP class UIDs to accept for storage beyond the standard's."
    )


class Caller(Section):
    """[[caller]]: a modality that may send here."""

    ae_title: CallerPattern = Field(
        ..., description="Calling AE title; `*` and `?` match as in file names, so `*` alone admits everyone."
    )
    networks: tuple[Network, ...] = Field((), description="CIDR networks it may connect from; empty means any.")
    conflict: Literal["forward-both", "hold-newer", "hold-if-other-source"] = Field(
        "forward-both", description="What to do with a SOP Instance UID received again with other bytes."
    )
    resend: Literal["requeue", "suppress"] = Field(
        "requeue",
        description="What to do with an identical object received again after it was delivered or failed.",
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


class Staging(Section):
    """[staging]: one immutable file per instance, for as long as it is owed or kept."""

    kind: Literal["filesystem"] = Field("filesystem", description="Where staged objects live.")
    dir: Folder | None = Field(None, description="Folder of the staged files. Default: <state_dir>/staging.")
    keep: Keep = Field(
        "7d",
        description="How long a delivered instance stays: `none`, days as `7d` (fewer when the disk is almost full), or `forever`. What is owed always stays.",
    )
    hot_seconds: Annotated[float, Field(ge=0, le=3600)] = Field(
        2.0, description="Time an instance is delivered straight from the spool before it is staged, in seconds."
    )
    date: Literal["study", "received"] = Field("study", description="Which date the YYYY/MM/DD of a key shows.")


class Jobs(Section):
    """[jobs]: the job table."""

    url: JobsUrl | None = Field(
        None,
        description="postgresql://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:////FILE. Default: SQLite at <state_dir>/jobs.sqlite. DATABASE_URL overrides it.",
    )
    migrate: bool = Field(
        True,
        description="Bring the job table to this version's schema at start; if false, wait until `relaypacs db migrate` has.",
    )
    keep: Keep = Field(
        "365d",
        description="How long rows stay after the last delivery and the bytes are gone: `none`, days as `90d`, or `forever`. What is owed always stays.",
    )
    lease_seconds: Seconds = Field(120.0, description="How long a claimed delivery is a worker's own, in seconds.")


class Rule(Section):
    """[[rule]]: which instances go where. Every rule that matches adds its destinations; a matching drop wins.

    A pattern is a glob (`CT_*`), or a regular expression after `re:` that must match the whole value.
    """

    name: Name = Field(..., description="Name shown by `trace`.")
    calling_ae: Pattern = Field("", description="Pattern for the calling AE title.")
    called_ae: Pattern = Field("", description="Pattern for the called AE title.")
    modality: Pattern = Field("", description="Pattern for Modality (0008,0060).")
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


class Sidecar(Section):
    """[sidecar]: health and metrics over HTTP."""

    host: Host = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8080, description="TCP port.")


class Config(Section):
    """The whole file."""

    node: Node = Field(default_factory=lambda: Node())
    log: Log = Field(default_factory=lambda: Log())
    receive: Receive = Field(default_factory=lambda: Receive())
    caller: tuple[Caller, ...] = ()
    spool: Spool = Field(default_factory=lambda: Spool())
    staging: Staging = Field(default_factory=lambda: Staging())
    jobs: Jobs = Field(default_factory=lambda: Jobs())
    destination: tuple[Destination, ...] = ()
    rule: tuple[Rule, ...] = ()
    routing: Routing = Field(default_factory=lambda: Routing())
    sidecar: Sidecar = Field(default_factory=lambda: Sidecar())

    @property
    def spool_dir(self) -> Path:
        """Folder of the spool."""
        return self.spool.dir or self.node.state_dir / "spool"

    @property
    def staging_dir(self) -> Path:
        """Folder of the staged files."""
        return self.staging.dir or self.node.state_dir / "staging"

    @property
    def run_dir(self) -> Path:
        """Folder of sockets and metrics files; emptied at start."""
        return self.node.state_dir / "run"

    @property
    def jobs_url(self) -> str:
        """SQLAlchemy URL of the job table."""
        return self.jobs.url.get_secret_value() if self.jobs.url else f"sqlite:///{self.node.state_dir}/jobs.sqlite"

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
        return _seconds(self.staging.keep)

    @property
    def keep_rows_seconds(self) -> float | None:
        """How long the rows of an instance that is over and has no bytes stay: seconds, or None for ever."""
        return _seconds(self.jobs.keep)


def _seconds(keep: str) -> float | None:
    return None if keep == "forever" else 0.0 if keep == "none" else float(keep[:-1]) * 86400
