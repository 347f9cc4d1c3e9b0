"""Commands for whoever sets a node up and keeps it running: `doctor`, `worksheet`, `conformance`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration; see `relaypacs --help`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON document.")]


def add_to(app: typer.Typer) -> None:
    """Register them."""
    for command in (doctor, worksheet, conformance):
        app.command()(command)


def doctor(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look at everything the node needs: disks, clock, ports, certificates, job table, staging, destinations.

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
    """Write this node's DICOM Conformance Statement (Markdown, in the structure of PS3.2)."""
    from relaypacs.cli import conformance as statement
    from relaypacs.cli import say, settings

    say.out(statement.conformance(settings.load(config or context.obj, secrets=False)).rstrip("\n"))
