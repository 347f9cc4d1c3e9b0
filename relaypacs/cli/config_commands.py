"""The options and help of `config …`; `configuration`, `reloading`, `versions` and `plan` do it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Check, show, change back or reload the configuration.", no_args_is_help=True, rich_markup_mode=None
)
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration; see `relaypacs --help`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON document.")]


@app.command("check")
def check(context: typer.Context, config: ConfigOption = None) -> None:
    """Name every mistake of the configuration, its place and mend."""
    from relaypacs.cli import configuration

    raise typer.Exit(configuration.check(config or context.obj))


@app.command("show")
def show(
    context: typer.Context,
    config: ConfigOption = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the defaults.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the configuration in force, secrets masked. File, environment and defaults together."""
    from relaypacs.cli import configuration

    raise typer.Exit(configuration.show(config or context.obj, changed=changed, as_json=as_json))


@app.command("plan")
def plan(
    context: typer.Context,
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The changed file, or folder of files.")],
    *,
    last: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="How many instances.")] = 1000,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Which of the last instances would go elsewhere under NEW. Exit code 1 if any would. Changes nothing."""
    from relaypacs.cli import settings

    loaded, planned = settings.load(config or context.obj, secrets=False), settings.load(new, secrets=False)
    with settings.jobs_of(loaded) as store:
        from relaypacs.cli import plan as planning

        raise typer.Exit(planning.plan(loaded, planned, store.associations.received(last), as_json=as_json))


@app.command("reload")
def reload(
    context: typer.Context,
    *,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for the node.")] = 60.0,
    config: ConfigOption = None,
) -> None:
    """Have the running node take the configuration, and wait. Exit code 1 if it refuses, 2 if the file is wrong."""
    from relaypacs.cli import reloading, settings

    place = settings.find(config or context.obj)
    loaded = settings.load(place, secrets=False)
    raise typer.Exit(reloading.reload(loaded.run_dir, place, timeout_seconds=timeout))


@app.command("history")
def history(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """The configurations the node has taken, the newest first. Exit code 1 if there is none."""
    from relaypacs.cli import settings, versions

    raise typer.Exit(versions.history(settings.find(config or context.obj), as_json=as_json))


@app.command("rollback")
def rollback(
    context: typer.Context,
    version: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", help="As `history` shows. Default: the one before.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Write the files of an earlier version back. What was there is kept, and a running node takes them."""
    from relaypacs.cli import settings, versions

    raise typer.Exit(versions.rollback(settings.find(config or context.obj), version))
