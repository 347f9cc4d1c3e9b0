"""[receive] and [[caller]]: what is listened on, who may send, and within which bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from relaypacs.config.options import (
    AeTitle,
    CallerPattern,
    Endpoint,
    Host,
    Network,
    Pattern,
    Port,
    Seconds,
    Uid,
    VariablePrefix,
)
from relaypacs.config.section import Section


class Receive(Section):
    """[receive]: the C-STORE and C-ECHO SCP."""

    host: Host = Field(
        "0.0.0.0", description="Address to listen on; `::` is every IPv6 address, and IPv4 where nothing else listens."
    )
    port: Port = Field(11112, description="TCP port to listen on (104 needs root only for the supervisor).")
    also_listen: tuple[Endpoint, ...] = Field(
        (), description="Further addresses to listen on: HOST:PORT, or [ADDRESS]:PORT with IPv6."
    )
    plain: bool = Field(
        True, description="Listen without TLS on `host`, `port` and `also_listen`; false leaves [tls] alone."
    )
    proxy_from: tuple[Network, ...] = Field(
        (),
        description="CIDR networks of load balancers that begin each connection with PROXY protocol v2; nobody else may.",
    )
    ae_titles: tuple[AeTitle, ...] = Field(
        ("RELAYPACS",), min_length=1, description="Called AE titles this node answers to."
    )
    check_called_ae: bool = Field(True, description="Reject (1/1/7) an association for any other called AE title.")
    ae_titles_case_sensitive: bool = Field(
        True, description="Compare AE titles as the standard does; false ignores case."
    )
    conceal: bool = Field(
        False,
        description="Answer whoever is not admitted with one rejection (1/1/1) that doesn't say why; the log does.",
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
    max_operations_invoked: Annotated[int, Field(ge=1, le=65535)] = Field(
        16,
        description="Longest asynchronous operations window granted: requests a peer may send before the first is answered.",
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
    staged_timeout_seconds: Seconds = Field(
        20.0,
        description='How long a caller with ack = "staged" waits for its answer, in seconds; then A700: the object stays in the spool and is relayed all the same.',
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
    called_ae: tuple[AeTitle, ...] = Field(
        (), description="Called AE titles it may use; empty means every one this node answers to."
    )
    echo: bool = Field(True, description="It may ask whether this node answers (C-ECHO).")
    store: bool = Field(True, description="It may store objects (C-STORE).")
    sop_classes: tuple[Pattern, ...] = Field(
        (),
        description="SOP classes it may store: UIDs, names, or patterns such as `CT *`; empty means every one accepted.",
    )
    certificate: tuple[Pattern, ...] = Field(
        (),
        description="Its verified TLS certificate has one of these names: the subject (`CN=ct1,O=Clinic`) or an alternative name (`DNS:ct1.example`); patterns match. Empty: none is needed.",
    )
    credentials_env: VariablePrefix = Field(
        "",
        description="If given, it must show a user identity, inside TLS: the variables <this>_USERNAME and, for a passcode, <this>_PASSWORD, or the same with _FILE.",
    )
    ack: Literal["spooled", "staged"] = Field(
        "spooled",
        description='When its objects are answered with Success: durable on this node\'s disk, or staged: also in object storage and in the job table ([staging] kind = "s3").',
    )
    conflict: Literal["forward-both", "hold-newer", "hold-if-other-source"] = Field(
        "forward-both", description="What to do with a SOP Instance UID received again with other bytes."
    )
    resend: Literal["requeue", "suppress"] = Field(
        "requeue",
        description="What to do with an identical object received again after it was delivered or failed.",
    )
