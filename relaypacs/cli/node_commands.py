"""`relaypacs node …`: the nodes that share a job table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from relaypacs.cli import say
from relaypacs.errors import ConfigError

app = typer.Typer(help="Look after the nodes of a shared job table.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """A group, also with one command."""


@app.command("drain")
def drain(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="[node] name of a node that never comes back.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration; see `relaypacs --help`.")
    ] = None,
) -> None:
    """Give up what a node that is gone for good still owed, and free its name.

    Its bytes were on its own disk, so its deliveries become dead letters that say so: run it only when they are lost.
    """
    from relaypacs import alive
    from relaypacs.cli import settings, verbs

    loaded = settings.load(config or context.obj)
    if name == loaded.node.name and alive.is_held(loaded.run_dir / "alive" / "relay"):
        raise ConfigError([f"node {name} runs here; only a node that is gone for good can be drained"])
    with settings.jobs_of(loaded) as store:
        owed = store.owes(name)
        if owed is None:
            say.tell(f"No node {say.printable(name)!r} uses this job table.")
            raise typer.Exit(1)
        what = f"give up {say.counted(owed, 'delivery')} of node {name}, for good"
        if dry_run:
            say.out(f"Would {what}.")
            raise typer.Exit(0)
        if not yes and not verbs.agreed(what):
            say.tell("Nothing was changed.")
            raise typer.Exit(1)
        while store.drain(name, time.time()):
            pass
    say.out(f"{say.counted(owed, 'delivery')} given up; the name {name} is free.")
