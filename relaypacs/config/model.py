"""Every option there is, with its default, bounds and one sentence of meaning.

`conf/relaypacs.toml` is rendered from these models (`config.reference`), so a description here is documentation.
Pure: nothing is read from disk, environment or clock.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from relaypacs.policy.aetitle import check_ae_title
from relaypacs.policy.retry import parse_schedule

AeTitle = Annotated[str, AfterValidator(check_ae_title)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]


def _check_schedule(value: str) -> str:
    parse_schedule(value)
    return value


def _check_network(value: str) -> str:
    ipaddress.ip_network(value, strict=False)
    return value


class Section(BaseModel):
    """A table of the file: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Node(Section):
    """[node]: who this node is and where it keeps its state."""

    name: Name = Field("relaypacs", description="This node's name in rows, metrics and logs; unique per node.")
    state_dir: Path = Field(
        Path("/var/lib/relaypacs"),
        description="Folder for everything the node keeps: spool, staging, job table, keys. Local disk, never a network share.",
    )
    identifiers: bool = Field(
        True,
        description="Keep accession number and patient ID in the job table, so that `trace` finds them. Names are never kept.",
    )


class Log(Section):
    """[log]: what the node writes to standard error."""

    level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        "info", description="Least level that is written. LOG_LEVEL overrides it."
    )
    format: Literal["json", "text"] = Field("json", description="One JSON object per line, or text for people.")


class Receive(Section):
    """[receive]: the C-STORE and C-ECHO SCP."""

    host: str = Field("0.0.0.0", description="Address to listen on.")
    port: Port = Field(11112, description="TCP port to listen on (104 needs root only for the supervisor).")
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
    max_associations: Annotated[int, Field(ge=1, le=100_000)] = Field(
        200, description="Associations open at once in each receive process; more get RJ 2/3/2 (transient)."
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
    transfer_syntaxes: tuple[str, ...] = Field(
        (),
        description="Transfer syntax UIDs to accept; empty accepts every one pynetdicom knows, in the proposer's order.",
    )
    private_sop_classes: tuple[str, ...] = Field(
        (), description="SOP class UIDs to accept for storage beyond the standard's."
    )


class Caller(Section):
    """[[caller]]: a modality that may send here."""

    ae_title: Annotated[str, Field(min_length=1, max_length=16)] = Field(
        ..., description="Calling AE title; `*` and `?` match as in file names, so `*` alone admits everyone."
    )
    networks: tuple[Annotated[str, AfterValidator(_check_network)], ...] = Field(
        (), description="CIDR networks it may connect from; empty means any."
    )
    conflict: Literal["forward-both", "hold-newer", "hold-if-other-source"] = Field(
        "forward-both", description="What to do with a SOP Instance UID received again with other bytes."
    )
    resend: Literal["requeue", "suppress"] = Field(
        "requeue",
        description="What to do with an identical object received again after it was delivered or failed.",
    )


class Spool(Section):
    """[spool]: the write-ahead log on local disk."""

    dir: Path | None = Field(None, description="Folder of the spool. Default: <state_dir>/spool.")
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
    dir: Path | None = Field(None, description="Folder of the staged files. Default: <state_dir>/staging.")
    keep: Annotated[str, Field(pattern=r"^(none|forever|[1-9][0-9]{0,4}d)$")] = Field(
        "7d",
        description="How long a delivered instance stays: `none`, days as `7d`, or `forever`. What is owed always stays.",
    )
    hot_seconds: Annotated[float, Field(ge=0, le=3600)] = Field(
        2.0, description="Time an instance is delivered straight from the spool before it is staged, in seconds."
    )
    date: Literal["study", "received"] = Field("study", description="Which date the YYYY/MM/DD of a key shows.")


class Jobs(Section):
    """[jobs]: the job table."""

    url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL. Default: SQLite at <state_dir>/jobs.sqlite. DATABASE_URL overrides it.",
    )
    lease_seconds: Seconds = Field(120.0, description="How long a claimed delivery is a worker's own, in seconds.")


class Destination(Section):
    """[[destination]]: a PACS this node delivers to."""

    name: Name = Field(..., description="Name that rules, metrics and commands use.")
    kind: Literal["dimse", "dicomweb"] = Field(..., description="dimse: C-STORE. dicomweb: STOW-RS.")
    host: str = Field("", description="dimse: host name or address.")
    port: Port = Field(104, description="dimse: TCP port.")
    called_ae: str = Field("", description="dimse: AE title of the destination.")
    calling_ae: str = Field("", description="dimse: AE title we present. Default: the first of [receive] ae_titles.")
    url: str = Field("", description="dicomweb: base URL of the service; `/studies` is appended.")
    credentials_env: Annotated[str, Field(pattern=r"^([A-Z][A-Z0-9_]*)?$")] = Field(
        "",
        description="dicomweb: prefix of the environment variables <PREFIX>_USERNAME and <PREFIX>_PASSWORD, or <PREFIX>_TOKEN; each may be given as …_FILE.",
    )
    associations: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="Associations (dimse) or requests (dicomweb) at once."
    )
    batch_instances: Annotated[int, Field(ge=1, le=1000)] = Field(100, description="Instances claimed at once.")
    max_request_bytes: Annotated[int, Field(ge=1 << 20)] = Field(
        64 << 20, description="dicomweb: size at which a STOW-RS request is closed, in bytes; one instance always fits."
    )
    connect_timeout_seconds: Seconds = Field(10.0, description="Time to connect and to associate, in seconds.")
    response_timeout_seconds: Seconds = Field(120.0, description="Longest silence while an answer is owed, in seconds.")
    idle_seconds: Seconds = Field(10.0, description="dimse: how long an unused association stays open, in seconds.")
    retry: Annotated[str, AfterValidator(_check_schedule)] = Field(
        "5x1m,12x5m,24x1h,7x1d",
        description="Retry schedule: COUNTxINTERVAL, comma-separated (s, m, h, d); then dead letter.",
    )

    @model_validator(mode="after")
    def _kind_has_its_address(self) -> Destination:
        if self.kind == "dimse":
            if not self.host:
                raise ValueError("a dimse destination needs `host`")
            if self.port == 0:
                raise ValueError("a dimse destination needs `port` (1-65535)")
            check_ae_title(self.called_ae)
            if self.calling_ae:
                check_ae_title(self.calling_ae)
        elif not self.url.startswith(("http://", "https://")):
            raise ValueError("a dicomweb destination needs `url` (http:// or https://)")
        return self


class Rule(Section):
    """[[rule]]: which instances go where. Every rule that matches adds its destinations; a matching drop wins.

    A pattern is a glob (`CT_*`), or a regular expression after `re:` that must match the whole value.
    """

    name: Name = Field(..., description="Name shown by `trace`.")
    calling_ae: str = Field("", description="Pattern for the calling AE title.")
    called_ae: str = Field("", description="Pattern for the called AE title.")
    modality: str = Field("", description="Pattern for Modality (0008,0060).")
    sop_class: str = Field("", description="Pattern for the SOP Class UID or its name.")
    tags: dict[str, str] = Field(
        default_factory=dict,
        description="Patterns for any element of the head, by keyword or GGGG,EEEE.",
    )
    to: tuple[str, ...] = Field((), description="Destinations.")
    priority: Annotated[int, Field(ge=0, le=9)] = Field(0, description="0-9; higher is sent first.")
    drop: bool = Field(False, description="Accept and deliver nowhere; counted as dropped.")

    @model_validator(mode="after")
    def _to_or_drop(self) -> Rule:
        if self.drop == bool(self.to):
            raise ValueError("give either `to` or `drop = true`")
        return self


class Routing(Section):
    """[routing]: what happens when no rule matched."""

    default: tuple[str, ...] = Field(
        (), description="Destinations when no rule matched; empty leaves the instance visibly unrouted."
    )


class Sidecar(Section):
    """[sidecar]: health and metrics over HTTP."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
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
    def keep_seconds(self) -> float | None:
        """How long a settled instance stays staged: seconds, or None for ever."""
        keep = self.staging.keep
        return None if keep == "forever" else 0.0 if keep == "none" else float(keep[:-1]) * 86400
