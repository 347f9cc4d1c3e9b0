"""Commands about stored objects: `export`, `verify`, `staging init`; `copies` says what the first two do."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from relaypacs.cli import say
from relaypacs.errors import ConfigError

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration; see `relaypacs --help`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON document.")]

staging_app = typer.Typer(help="Look after the bucket of staged objects.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Register them."""
    for command in (export, verify):
        app.command()(command)
    app.add_typer(staging_app, name="staging")


def export(
    context: typer.Context,
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    target: Annotated[
        Path, typer.Argument(metavar="DIR|FILE.tar|-", help="A new or empty folder, a tar file, or `-`: tar on stdout.")
    ],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a study's DICOM files to a folder or a tar. Read from staging or the spool, checked against their digests.

    Exit code 1 if there is no such study or not all of it could be written.
    """
    from relaypacs.cli import copies, settings

    loaded = settings.load(config or context.obj, secrets=False)
    with settings.jobs_of(loaded) as store:
        raise typer.Exit(copies.export(loaded, store, study, target, as_json=as_json))


def verify(
    context: typer.Context,
    since: Annotated[
        str | None, typer.Option("--since", metavar="AGE", help="Only what was staged less long ago: 30m, 2h, 7d.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every staged object again and compare its digest. Exit code 1 if one is missing or damaged."""
    from relaypacs.cli import copies, settings, verbs

    loaded = settings.load(config or context.obj, secrets=False)
    begin = 0.0 if since is None else time.time() - verbs.age_seconds(since)
    with settings.jobs_of(loaded) as store:
        raise typer.Exit(copies.verify(loaded, store, begin, as_json=as_json))


@staging_app.callback()
def _group() -> None:
    """A group, also with one command."""


@staging_app.command("init")
def staging_init(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Make the bucket if it is absent, and set it up. For medical records; may be repeated.

    Versioning, default encryption, public access block, lifecycle. What the service does not accept is told.
    """
    from relaypacs.cli import settings
    from relaypacs.config.secrets import storage_keys

    options = settings.load(config or context.obj).staging
    if options.kind != "s3":
        raise ConfigError(['[staging] kind is "filesystem": a folder needs no preparation'])
    from relaypacs.staging.s3_bucket import init
    from relaypacs.staging.s3_client import Storage

    steps = []
    for what, why in init(Storage(options, lambda: storage_keys(options, os.environ))):
        steps.append({"step": what, "accepted": not why, "reason": why})
        if not as_json:
            say.out(f"{what}: {why or 'done'}")
    if as_json:
        say.out_json({"bucket": options.bucket, "steps": steps})
