"""[staging] and [jobs]: where bytes and rows are kept, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from relaypacs.config.options import (
    Bucket,
    Folder,
    JobsUrl,
    Keep,
    KeyPrefix,
    Region,
    Seconds,
    ServiceUrl,
    VariablePrefix,
)
from relaypacs.config.section import Section


class Staging(Section):
    """[staging]: one immutable object per instance, for as long as it is owed or kept.

    Options from `bucket` on are for kind = "s3". With it any node that shares job table and bucket delivers what is staged.
    """

    kind: Literal["filesystem", "s3"] = Field(
        "filesystem",
        description="Where staged objects live: in a folder of this node, or in a bucket (S3, MinIO, SeaweedFS).",
    )
    dir: Folder | None = Field(None, description="Folder of the staged files. Default: <state_dir>/staging.")
    keep: Keep | None = Field(
        None,
        description="How long a delivered instance stays: `none`, days as `7d` (fewer when the disk is almost full), or `forever`. What is owed always stays. Default: 7d in a folder, forever in a bucket.",
    )
    hot_seconds: Annotated[float, Field(ge=0, le=3600)] = Field(
        2.0, description="Time an instance is delivered straight from the spool before it is staged, in seconds."
    )
    date: Literal["study", "received"] = Field("study", description="Which date the YYYY/MM/DD of a key shows.")
    bucket: Bucket = Field(
        "", description="The bucket. It is never made by `serve`; `relaypacs staging init` makes and prepares it."
    )
    prefix: KeyPrefix = Field("", description="What every key begins with, without a final `/`; empty for nothing.")
    endpoint: ServiceUrl = Field("", description="URL of the S3 service; empty is Amazon's own of `region`.")
    region: Region = Field("", description="Region of the bucket; empty is what the AWS chain says, else us-east-1.")
    allowed_regions: tuple[Region, ...] = Field(
        (), description="Regions the bucket may lie in; in another nothing is stored. Empty allows every one."
    )
    credentials_env: VariablePrefix = Field(
        "MINIO",
        description="Prefix of the variables <PREFIX>_ACCESS_KEY, <PREFIX>_SECRET_KEY and, if there is one, <PREFIX>_SESSION_TOKEN; each may be given as …_FILE. Unset, the AWS chain is asked (AWS_* variables, profile, instance role).",
    )
    encryption: Literal["sse-s3", "sse-kms", "none"] = Field(
        "sse-s3", description="How the service encrypts what is stored; `none` leaves it to the bucket's default."
    )
    kms_key_id: Annotated[str, Field(max_length=2048)] = Field(
        "", description="sse-kms: id or ARN of the key; empty is the service's default key."
    )
    addressing: Literal["auto", "path", "virtual"] = Field(
        "auto", description="Bucket in the path or in the host name; auto is path where `endpoint` is given."
    )
    ca_bundle: Folder | None = Field(
        None, description="File of the certificate authorities to trust. Default: the system's, or AWS_CA_BUNDLE."
    )
    connect_timeout_seconds: Seconds = Field(5.0, description="Time to connect to the service, in seconds.")
    read_timeout_seconds: Seconds = Field(30.0, description="Longest silence of the service, in seconds.")
    attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        4,
        description="How often a request is made before it counts as failed; slower and slower where the service asks for it.",
    )
    puts_at_once: Annotated[int, Field(ge=1, le=64)] = Field(
        8, description="Objects put at once; each takes up to `part_bytes` of memory."
    )
    part_bytes: Annotated[int, Field(ge=5 << 20, le=1 << 30)] = Field(
        8 << 20, description="Size above which an object is put in parts of this size, in bytes."
    )

    @property
    def kept(self) -> str:
        """`keep`, or its default."""
        return self.keep or ("forever" if self.kind == "s3" else "7d")

    def inconsistencies(self) -> Iterator[str]:
        """A bucket without its kind, a kind without its bucket, a key that nothing uses."""
        if self.kind == "s3" and not self.bucket:
            yield 'kind = "s3" needs `bucket`'
        if self.kind != "s3" and self.bucket:
            yield '`bucket` has no effect; write kind = "s3"'
        if self.kms_key_id and self.encryption != "sse-kms":
            yield '`kms_key_id` has no effect; write encryption = "sse-kms"'
        if self.region and self.allowed_regions and self.region not in self.allowed_regions:
            yield f"region {self.region} is not among allowed_regions ({', '.join(self.allowed_regions)})"


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
    standby_lag_seconds: Annotated[float, Field(ge=0, le=86400)] = Field(
        0.0,
        description="How far an asynchronous standby of the database may lag: what is delivered stays that long in spool and staging, so that a failover forgets nothing. 0: there is none, or it is synchronous.",
    )
