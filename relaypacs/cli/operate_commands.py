"""Commands for whoever sets a node up and keeps it running: `doctor`."""

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
    app.command()(doctor)


def doctor(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look at everything the node needs: disks, clock, ports, certificates, job table, staging, destinations.

    Exit code 1 if something does not work. Nothing is changed; destinations get one C-ECHO or search.
    """
    from relaypacs.cli import doctor as rooms
    from relaypacs.cli import settings

    raise typer.Exit(rooms.doctor(settings.load(config or context.obj), as_json=as_json))
