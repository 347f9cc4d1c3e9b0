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
    """Who asked for an association, and what came of it. And what to do about it."""
    from relaypacs.cli import associations as log
    from relaypacs.cli import settings
    from relaypacs.cli.verbs import age_seconds
    from relaypacs.jobs.associations import Asked

    loaded = settings.load(config or context.obj, secrets=False)
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

    raise typer.Exit(callers.show(settings.load(config or context.obj, secrets=False), as_json=as_json))


@caller_app.command("add")
def caller_add(
    context: typer.Context,
    aet: Annotated[
        str | None, typer.Argument(metavar="[AET]", help="Its calling AE title; `*` and `?` match as in file names.")
    ] = None,
    *,
    from_rejected: Annotated[
        str | None, typer.Option("--from-rejected", metavar="ID", help="A refusal of `associations --rejected`.")
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CIDR", help="Where it may connect from (repeatable). Default: anywhere, or where it was."
        ),
    ] = None,
    called: Annotated[
        list[str] | None, typer.Option(metavar="AET", help="AE title it may call (repeatable). Default: any of ours.")
    ] = None,
    sop_class: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="SOP class it may store (repeatable). Default: all.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the entry.")] = False,
    config: ConfigOption = None,
) -> None:
    """Let a modality in: append its [[caller]] to the configuration. As a new one, or for somebody who was refused."""
    from relaypacs.cli import callers, settings

    if (aet is None) == (from_rejected is None):
        raise typer.BadParameter("give the AE title, or --from-rejected, one of them")
    if from_rejected is not None and (called or sop_class or len(network or ()) > 1):
        raise typer.BadParameter("--from-rejected takes one --network, and nothing else")
    path = settings.find(config or context.obj)
    loaded = settings.load(path, secrets=False)
    if from_rejected is None:
        options = {"ae_title": aet, "networks": network, "called_ae": called, "sop_classes": sop_class}
        raise typer.Exit(callers.add(loaded, path, options, dry_run=dry_run, environ=os.environ))
    with settings.jobs_of(loaded) as store:
        raise typer.Exit(
            callers.add_rejected(
                store,
                loaded,
                path,
                association_id=from_rejected,
                network=network[0] if network else None,
                dry_run=dry_run,
                environ=os.environ,
            )
        )


@caller_app.command("remove")
def caller_remove(
    context: typer.Context,
    aet: Annotated[str, typer.Argument(metavar="AET", help="AE title of the entry, as it is written there.")],
    *,
    network: Annotated[str | None, typer.Option(metavar="CIDR", help="Which, if several have this AE title.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which.")] = False,
    config: ConfigOption = None,
) -> None:
    """Take a [[caller]] out of the configuration: it may send no longer."""
    from relaypacs.cli import callers, settings

    path = settings.find(config or context.obj)
    loaded = settings.load(path, secrets=False)
    raise typer.Exit(callers.remove(loaded, path, aet, network=network, dry_run=dry_run, environ=os.environ))


@caller_app.command("test")
def caller_test(
    context: typer.Context,
    aet: Annotated[str, typer.Argument(metavar="AET", help="The calling AE title.")],
    *,
    address: Annotated[str | None, typer.Option(metavar="IP", help="Where it connects from.")] = None,
    called: Annotated[str | None, typer.Option(metavar="AET", help="What it calls. Default: our first.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="It connects with TLS.")] = False,
    certificate: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the certificate it shows, such as DNS:ct1.example.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Whether it would be admitted, and why. By the configuration alone; nothing is sent. Exit code 1 if not."""
    from relaypacs.cli import callers, settings

    loaded = settings.load(config or context.obj, secrets=False)
    raise typer.Exit(callers.admits(loaded, aet, address=address, called=called, tls=tls, certificate=certificate))
