"""`relaypacs reconcile` and `relaypacs rebuild`: rows for what staging holds and the job table does not know."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relaypacs.cli import say

if TYPE_CHECKING:
    from relaypacs.config import Config
    from relaypacs.intake.restoring import Restoration
    from relaypacs.jobs.store import JobStore

_TELL_SECONDS = 5.0

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration; see `relaypacs --help`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON document.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only count.")]


def add_to(app: typer.Typer) -> None:
    """Register them."""
    app.command()(reconcile)
    app.command()(rebuild)


def reconcile(
    context: typer.Context,
    *,
    queue_newer_than: Annotated[
        str,
        typer.Option("--queue-newer-than", metavar="AGE", help="Queue what was staged since, hold the rest."),
    ] = "1d",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give staged objects rows that the job table lost. A node does so by itself after a database failover.

    By the rules of today. What was staged within --queue-newer-than is delivered (again), what is older waits for
    `relaypacs release`. Exit code 1 if objects can't be read.
    """
    from relaypacs.cli import settings, verbs

    loaded = settings.load(config or context.obj, secrets=False)
    with settings.jobs_of(loaded) as store:
        raise typer.Exit(
            _restore(
                "reconcile",
                loaded,
                store,
                queue_seconds=verbs.age_seconds(queue_newer_than),
                dry_run=dry_run,
                as_json=as_json,
            )
        )


def rebuild(
    context: typer.Context,
    *,
    into_existing: Annotated[
        bool, typer.Option("--into-existing", help="Also if the job table knows instances: add what it lacks.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Restore a lost job table from staging alone. Nobody knows what was delivered, so every delivery is held.

    Can be run again, and beside the node. `relaypacs release` and `discard` decide about what is held.
    """
    from relaypacs.cli import settings
    from relaypacs.jobs.store import JobStore

    loaded = settings.load(config or context.obj, secrets=False)
    store = JobStore.open(
        loaded.jobs_url, identifiers=loaded.node.identifiers, shared_staging=loaded.staging.kind == "s3"
    )
    try:
        if loaded.jobs.migrate:
            store.migrate()
        store.check_schema()
        if not into_existing and not store.restoring.is_empty():
            say.tell(
                "The job table knows instances, so it is not lost: `relaypacs reconcile` restores what it lacks, "
                "`rebuild --into-existing` does too and holds all of that."
            )
            raise typer.Exit(1)
        raise typer.Exit(_restore("rebuild", loaded, store, queue_seconds=0.0, dry_run=dry_run, as_json=as_json))
    finally:
        store.close()


def _restore(kind: str, config: Config, store: JobStore, *, queue_seconds: float, dry_run: bool, as_json: bool) -> int:
    from relaypacs.cli.noted import note
    from relaypacs.intake.restoring import Restorer
    from relaypacs.node.arrivals import arrival_reader
    from relaypacs.node.stores import staging_of
    from relaypacs.wake.hints import poke

    told_at = time.monotonic()

    def tell(done: Restoration) -> None:
        nonlocal told_at
        if not as_json and (time.monotonic() - told_at >= _TELL_SECONDS):
            told_at = time.monotonic()
            say.tell(f"… {say.counted(done.looked_at, 'object')} looked at, {done.restored} without a row")
            sys.stderr.flush()

    restorer = Restorer(
        node=config.node.name,
        jobs=store,
        staging=staging_of(config),
        arrival_of=arrival_reader(config),
        queue_seconds=queue_seconds,
    )
    try:
        done = restorer.run(only_count=dry_run, on_progress=tell)
    finally:
        poke(config.hint_socket)
    if not dry_run:
        note(store, config, kind, {"restored": done.restored, "queued": done.queued, "held": done.held})
    if as_json:
        say.out_json(
            {
                "looked_at": done.looked_at,
                "restored": done.restored,
                "found_again": done.found_again,
                "surplus": done.surplus,
                "unreadable": done.unreadable,
                "unreadable_keys": done.unreadable_keys,
                "queued": done.queued,
                "held": done.held,
                "dry_run": dry_run,
            }
        )
    else:
        _show(done, dry_run=dry_run)
    return 1 if done.unreadable else 0


def _show(done: Restoration, *, dry_run: bool) -> None:
    if dry_run:
        say.out(f"{say.counted(done.looked_at, 'object')} in staging, {done.restored} without a row.")
        return
    say.out(
        f"{say.counted(done.looked_at, 'object')} in staging: {done.restored} got a row, {done.found_again} had one "
        "that knew no copy."
    )
    say.out(f"{say.counted(done.queued, 'delivery')} queued, {done.held} held until `relaypacs release`.")
    if done.surplus:
        say.out(f"{done.surplus} are second copies of what has another; they are left as they are.")
    if done.unreadable:
        say.tell(f"{say.counted(done.unreadable, 'object')} can't be read, or are not what their key says; the first:")
        for key in done.unreadable_keys:
            say.tell(f"  {key}")
