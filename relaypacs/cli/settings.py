"""Which configuration a command uses, and what it needs of it, each failing with a sentence that says what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from relaypacs.errors import ConfigError, JobsError

if TYPE_CHECKING:
    from relaypacs.config import Config, Destination
    from relaypacs.config.files import Source
    from relaypacs.jobs.store import JobStore

VARIABLE = "RELAYPACS_CONFIG"
PLACES = (Path("relaypacs.toml"), Path("/etc/relaypacs/relaypacs.toml"))


def find(given: Path | None) -> Path:
    """The configuration file: the one given, $RELAYPACS_CONFIG, or the first of `PLACES` that is there."""
    if given is not None:
        return given
    if named := os.environ.get(VARIABLE):
        return Path(named)
    for place in PLACES:
        if place.exists():
            return place
    raise ConfigError(
        [
            f"no configuration file: give --config FILE, set {VARIABLE}, "
            f"or put one at {' or '.join(f'./{place}' if not place.is_absolute() else str(place) for place in PLACES)}"
        ]
    )


def load(given: Path | None, *, secrets: bool = True) -> Config:
    """The configuration that `find` finds, validated. ConfigError with every problem.

    Without `secrets` nobody asks for those of destinations, callers and storage: an administrator's shell has none.
    """
    from relaypacs.config import load_config

    return load_config(find(given), os.environ, secrets=secrets)


def load_with_sources(place: Path) -> tuple[Config, list[Source]]:
    """The configuration at `place` for a node, and the files it was loaded from. ConfigError with every problem."""
    from relaypacs.config.files import read
    from relaypacs.config.load import load_sources

    sources = read(place)
    return load_sources(sources, os.environ, place=str(place)), sources


def destination_named(config: Config, name: str) -> Destination:
    """The destination `name`; ConfigError that lists those there are."""
    for destination in config.destination:
        if destination.name == name:
            return destination
    known = ", ".join(sorted(destination.name for destination in config.destination))
    raise ConfigError(
        [f"no destination is named {name!r}; " + (f"there is {known}" if known else "none is configured")]
    )


@contextmanager
def jobs_of(config: Config) -> Iterator[JobStore]:
    """The job table, open and of this version's schema. JobsError with a sentence if it is not to be had."""
    from relaypacs.jobs.store import JobStore

    file = config.jobs_file
    if file is not None and not file.exists():
        raise JobsError(
            f"the node has not run yet: there is no job table at {file}; start it with `relaypacs serve`, "
            "or look at [node] state_dir and [jobs] url"
        )
    store = JobStore.open(
        config.jobs_url, identifiers=config.node.identifiers, shared_staging=config.staging.kind == "s3"
    )
    store.audit.node = config.node.name  # what a command does is told, and sent to the collector, in its name
    try:
        store.check_schema()
        yield store
    finally:
        store.close()
