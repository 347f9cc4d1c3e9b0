"""[staging] and [jobs]: where bytes and rows are kept, and for how long."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from relaypacs.config.options import Folder, JobsUrl, Keep, Seconds
from relaypacs.config.section import Section


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
