"""[[destination]]: where objects go, and what its two kinds need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from relaypacs.config.options import (
    File,
    Host,
    Hours,
    Name,
    Pattern,
    Port,
    Schedule,
    Seconds,
    Uid,
    VariablePrefix,
    base_url_problems,
)
from relaypacs.config.section import Section
from relaypacs.policy.aetitle import check_ae_title

ORIGINAL = "original"
"""`calling_ae` that stands for the AE title of who sent the instance."""


class Destination(Section):
    """[[destination]]: a PACS this node delivers to."""

    name: Name = Field(..., description="Name that rules, metrics and commands use.")
    kind: Literal["dimse", "dicomweb"] = Field(..., description="dimse: C-STORE. dicomweb: STOW-RS.")
    host: Host = Field("", description="dimse: host name or address.")
    port: Port = Field(104, description="dimse: TCP port.")
    called_ae: str = Field("", description="dimse: AE title of the destination.")
    calling_ae: str = Field(
        "",
        description="dimse: AE title we present, or `original` for that of who sent the instance. "
        "Default: the first of [receive] ae_titles.",
    )
    tls: bool = Field(False, description="dimse: speak TLS 1.2 or 1.3 (PS3.15 B.12); the usual port is then 2762.")
    tls_ca: File = Field(
        "",
        description="PEM file with the CAs, or single certificates, to trust. Default: those of the system.",
    )
    tls_certificate: File = Field(
        "", description="PEM file with the certificate we show if the destination asks for one."
    )
    tls_key: File = Field(
        "", description="PEM file with its key, without pass phrase. Default: in the certificate's file."
    )
    tls_server_name: Host = Field(
        "", description="dimse: name that the destination's certificate is for. Default: `host`."
    )
    url: str = Field("", description="dicomweb: base URL of the service; `/studies` is appended.")
    credentials_env: VariablePrefix = Field(
        "",
        description="dicomweb: prefix of the environment variables <PREFIX>_USERNAME and <PREFIX>_PASSWORD, "
        "or <PREFIX>_TOKEN; each may be given as …_FILE.",
    )
    token_url: str = Field(
        "",
        description="dicomweb: OAuth 2.0 token endpoint; <PREFIX>_USERNAME and _PASSWORD are then client id and secret.",
    )
    token_scope: str = Field("", description="dicomweb: scope to ask for at `token_url`.")
    transfer_syntaxes: tuple[Uid, ...] = Field(
        (),
        description="Transfer syntax UIDs it takes; what none of a caller's destinations takes is not accepted from it. Empty: not known, so everything.",
    )
    sop_classes: tuple[Pattern, ...] = Field(
        (),
        description="SOP classes it takes: UIDs, names, or patterns such as `CT *`; empty: not known, so everything.",
    )
    associations: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="Associations (dimse) or requests (dicomweb) at once."
    )
    associations_all_nodes: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="The same over all nodes that share a Redis ([redis] url); 0 is no limit."
    )
    max_operations: Annotated[int, Field(ge=1, le=128)] = Field(
        1,
        description="dimse: instances under way at once on an association, where the destination grants it; 1 asks not, "
        "since some grant it and then refuse what comes at once.",
    )
    batch_instances: Annotated[int, Field(ge=1, le=1000)] = Field(100, description="Instances claimed at once.")
    max_request_bytes: Annotated[int, Field(ge=1 << 20)] = Field(
        64 << 20, description="dicomweb: size at which a STOW-RS request is closed, in bytes; one instance always fits."
    )
    connect_timeout_seconds: Seconds = Field(10.0, description="Time to connect and to associate, in seconds.")
    response_timeout_seconds: Seconds = Field(120.0, description="Longest silence while an answer is owed, in seconds.")
    idle_seconds: Seconds = Field(10.0, description="dimse: how long an unused association stays open, in seconds.")
    max_objects_per_second: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Most instances a second, over all associations; 0 is no limit."
    )
    max_megabits_per_second: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Most of the network that is used, in Mbit/s on average; 0 is no limit."
    )
    send_between: Hours = Field(
        "", description="Hours in which it is sent to, local time, such as 19:00-06:00; empty is always."
    )
    retry: Schedule = Field(
        "5x1m,12x5m,24x1h,7x1d",
        description="Retry schedule: COUNTxINTERVAL, comma-separated (s, m, h, d); then dead letter.",
    )
    fallback: str = Field(
        "", description="Another destination, which gets what waits here once this one has not answered for long."
    )
    fallback_after_seconds: Seconds = Field(
        3600.0, description="How long it has not answered by then, in seconds; within its hours only."
    )
    fallback_then: Literal["also", "instead"] = Field(
        "also",
        description="also: what went to `fallback` is delivered here too when it answers again. instead: it is not.",
    )
    verify: Literal["none", "c-find", "qido"] = Field(
        "none",
        description="Ask afterwards whether what was delivered is there, and send again what is not: by C-FIND (dimse) or QIDO-RS (dicomweb).",
    )
    verify_called_ae: str = Field("", description="dimse: AE title that is asked by C-FIND. Default: `called_ae`.")
    verify_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="dimse: TCP port that is asked by C-FIND; 0 is `port`."
    )
    verify_after_seconds: Seconds = Field(
        30.0, description="When it is asked: so long after the last delivery of a study, in seconds."
    )
    verify_rounds: Annotated[int, Field(ge=0, le=10)] = Field(
        3,
        description="How often what is missing there is sent again, each time after four times as long a wait; then it is a dead letter.",
    )
    refused_for_seconds: Annotated[float, Field(ge=0, le=30 * 86400)] = Field(
        3600.0,
        description="How long a SOP class and transfer syntax it refused are offered to no caller that sends there alone, until it is asked again, in seconds; 0 is not at all.",
    )

    def inconsistencies(self) -> Iterator[str]:
        """An address that its kind can't do with."""
        if self.tls_key and not self.tls_certificate:
            yield "`tls_key` needs `tls_certificate`"
        if self.fallback and self.fallback == self.name:
            yield "`fallback` is the destination itself; name another"
        if self.verify not in ("none", "c-find" if self.kind == "dimse" else "qido"):
            yield "`verify` is c-find for dimse, qido for dicomweb"
        if (self.verify_called_ae or self.verify_port) and self.verify != "c-find":
            yield '`verify_called_ae` and `verify_port` are for verify = "c-find"'
        if self.kind == "dimse":
            yield from self._dimse_problems()
        elif self.kind == "dicomweb":
            yield from self._dicomweb_problems()

    def _dimse_problems(self) -> Iterator[str]:
        if not self.host:
            yield "a dimse destination needs `host`"
        if self.port == 0:
            yield "a dimse destination needs `port` (1-65535)"
        titles = {"called_ae": self.called_ae, "calling_ae": self.calling_ae, "verify_called_ae": self.verify_called_ae}
        for option, title in titles.items():
            if not title and option == "called_ae":
                yield "a dimse destination needs `called_ae`"
            elif title:
                try:
                    check_ae_title(title)
                except ValueError as error:
                    yield f"`{option}`: {error}"
        if not self.tls and (self.tls_ca or self.tls_certificate or self.tls_key or self.tls_server_name):
            yield "`tls_…` options are for tls = true: set it, or leave them out"
        if self.url or self.credentials_env:
            yield "`url` and `credentials_env` are for dicomweb"
        if self.token_url or self.token_scope:
            yield "`token_url` and `token_scope` are for dicomweb"

    def _dicomweb_problems(self) -> Iterator[str]:
        yield from base_url_problems(self.url)
        if self.host or self.called_ae or self.calling_ae:
            yield "`host`, `called_ae` and `calling_ae` are for dimse"
        if self.tls or self.tls_server_name:
            yield "`tls` and `tls_server_name` are for dimse; for dicomweb write https in `url`"
        if (self.tls_ca or self.tls_certificate) and not self.url.startswith("https:"):
            yield "`tls_ca` and `tls_certificate` are for an https `url`"
        if self.token_url:
            yield from (problem.replace("`url`", "`token_url`") for problem in base_url_problems(self.token_url))
        if self.token_url and not self.credentials_env:
            yield "`token_url` needs `credentials_env`: the client id and secret"
        if self.token_scope and not self.token_url:
            yield "`token_scope` needs `token_url`"
