"""What commands did, told in the audit trail with who did it. Without a job table yet there is nothing to tell it to.

The commands about deliveries tell it in their own transaction (`jobs.people`); here are the others.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from relaypacs.cli import say, settings
from relaypacs.cli.person import who
from relaypacs.config import Config
from relaypacs.errors import JobsError

if TYPE_CHECKING:
    from relaypacs.jobs.store import JobStore


def note(
    store: JobStore,
    config: Config,
    kind: str,
    body: Mapping[str, object],
    *,
    study: str = "",
    outcome: int = 0,
) -> None:
    """Add a row of this kind. JobsError if it can't be."""
    from relaypacs.jobs.audit_rows import Entry

    store.audit.add([Entry(time.time(), kind, config.node.name, who(), study, outcome, body)])


def changed(config: Config, command: str, subject: str) -> None:
    """A command (`caller add`) has changed the configuration; it stays changed where the trail can't be told of it."""
    if config.jobs_file is not None and not config.jobs_file.exists():
        return
    try:
        with settings.jobs_of(config) as store:
            note(store, config, "config", {"command": command, "subject": subject})
    except JobsError as problem:
        say.tell(f"The audit trail does not tell of it: {problem}")
