"""The options and help of `associations` and `caller …`; `associations` and `callers` say what they do."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

caller_app = typer.Typer(help="Who may send here.", no_args_is_help=True, rich_markup_mode=None)
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration; see `relaypacs --help`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON document.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("associations")(associations)
    app.add_typer(caller_app, name="caller")


def associations(
    context: typer.Context,
    association: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Only this one, with all it proposed; its beginning will do.")
    ] = None,
    *,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Only who was refused, or got nothing it proposed accepted.")
    ] = False,
    caller: Annotated[str | None, typer.Option(metavar="AET", help="Only of this calling AE title.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only what ended or was refused less long ago: 90s, 30m, 2h, 7d.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="At most so many, the latest.")] = 50,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Who asked for an association, what came of it, and what to do about it."""
    from relaypacs.cli import associations as log
    from relaypacs.cli import settings
    from relaypacs.cli.verbs import age_seconds
    from relaypacs.jobs.associations import Asked

    loaded = settings.load(config or context.obj)
    asked = Asked(
        association_id=association,
        refused=rejected,
        calling_ae=caller,
        since=None if since is None else time.time() - age_seconds(since),
    )
    with settings.jobs_of(loaded) as store:
        raise typer.Exit(log.show(store, loaded, asked, limit=limit, as_json=as_json))


@caller_app.command("list")
def caller_list(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Everyone who may send here, and what."""
    from relaypacs.cli import callers, settings

    raise typer.Exit(callers.show(settings.load(config or context.obj), as_json=as_json))


@caller_app.command("add")
def caller_add(
    context: typer.Context,
    from_rejected: Annotated[
        str, typer.Option("--from-rejected", metavar="ID", help="A refusal that `associations --rejected` shows.")
    ],
    *,
    network: Annotated[
        str | None, typer.Option(metavar="CIDR", help="Where it may connect from. Default: the address it came from.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the entry.")] = False,
    config: ConfigOption = None,
) -> None:
    """Append the [[caller]] that admits somebody who was refused to the configuration file."""
    from relaypacs.cli import callers, settings

    path = settings.find(config or context.obj)
    loaded = settings.load(path)
    with settings.jobs_of(loaded) as store:
        raise typer.Exit(
            callers.add(
                store,
                loaded,
                path,
                association_id=from_rejected,
                network=network,
                dry_run=dry_run,
                environ=os.environ,
            )
        )
