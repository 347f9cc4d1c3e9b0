"""Commands for whoever sets a node up and keeps it running: `doctor`, `worksheet`, `conformance`, `audit`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration; see `relaypacs --help`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON document.")]


def add_to(app: typer.Typer) -> None:
    """Register them."""
    for command in (doctor, worksheet, conformance, audit):
        app.command()(command)


def doctor(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look at everything the node needs, and say how to mend it. Disks, clock, ports, certificates, job table,
    staging, destinations.

    Exit code 1 if something does not work. Nothing is changed; destinations get one C-ECHO or search.
    """
    from relaypacs.cli import doctor as rooms
    from relaypacs.cli import settings

    raise typer.Exit(rooms.doctor(settings.load(config or context.obj, secrets=False), as_json=as_json))


def worksheet(
    context: typer.Context,
    caller: Annotated[str, typer.Option(metavar="AET", help="The modality's own AE title.")] = "",
    address: Annotated[str, typer.Option(metavar="HOST", help="This node's address as the modality reaches it.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """What to type into a modality so that it sends here. Exit code 1 if it is not admitted yet."""
    from relaypacs.cli import settings
    from relaypacs.cli import worksheet as sheet

    loaded = settings.load(config or context.obj, secrets=False)
    raise typer.Exit(sheet.worksheet(loaded, caller, address, as_json=as_json))


def conformance(context: typer.Context, config: ConfigOption = None) -> None:
    """Write this node's DICOM Conformance Statement. Markdown, in the structure of PS3.2."""
    from relaypacs.cli import conformance as statement
    from relaypacs.cli import say, settings

    say.out(statement.conformance(settings.load(config or context.obj, secrets=False)).rstrip("\n"))


def audit(
    context: typer.Context,
    *,
    since: Annotated[str | None, typer.Option(metavar="AGE", help="Only of less long ago: 90s, 30m, 2h, 7d.")] = None,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only what this login name, AE title or node did.")
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Only of this Study Instance UID.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Only of this kind, such as received (repeatable).")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Prove that no row was changed or taken out.")] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="At most so many, the latest.")] = 50,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Who sent, got or was refused what, and what people did. That it was read is told, too.

    Exit code 1 if --check finds a row that is not what it was, or a gap.
    """
    from relaypacs.cli import audit as trail
    from relaypacs.cli import settings, verbs
    from relaypacs.jobs.audit_rows import KINDS, Wanted

    if unknown := set(kind or ()) - KINDS:
        raise typer.BadParameter(
            f"--kind: no row is a {', '.join(sorted(unknown))}; there are {', '.join(sorted(KINDS))}"
        )
    if check and (since is not None or user is not None or study is not None or kind):
        raise typer.BadParameter("--check looks at the whole trail; leave the choice out")
    loaded = settings.load(config or context.obj, secrets=False)
    wanted = Wanted(
        since=None if since is None else time.time() - verbs.age_seconds(since),
        actor=user,
        study=study,
        kinds=frozenset(kind or ()),
    )
    with settings.jobs_of(loaded) as store:
        if check:
            raise typer.Exit(trail.check(store, as_json=as_json))
        raise typer.Exit(trail.show(store, loaded, wanted, limit=limit, as_json=as_json))
