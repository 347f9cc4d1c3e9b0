"""`destination …`: where objects go, and what a destination takes, found out before the first patient."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Where objects go.", no_args_is_help=True, rich_markup_mode=None)
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration; see `relaypacs --help`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON document.")]
_MARKS = {True: "ok", False: "FAILED", None: "note"}


@app.callback()
def group() -> None:
    """Where objects go."""


@app.command("list")
def show(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Every destination, where it is, and which rules send there."""
    from relaypacs.cli import destinations, settings

    raise typer.Exit(destinations.show(settings.load(config or context.obj, secrets=False), as_json=as_json))


@app.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="How rules, metrics and commands call it.")],
    *,
    to: Annotated[
        str, typer.Option("--to", metavar="HOST:PORT|URL", help="C-STORE to host and port, or a DICOMweb base URL.")
    ],
    called: Annotated[str | None, typer.Option(metavar="AET", help="C-STORE: AE title of the destination.")] = None,
    calling: Annotated[str | None, typer.Option(metavar="AET", help="C-STORE: AE title we present.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="C-STORE: with TLS.")] = False,
    tls_ca: Annotated[str | None, typer.Option(metavar="FILE", help="PEM file of the CAs to trust.")] = None,
    credentials_env: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="DICOMweb: prefix of the variables with its credentials.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Also add a rule that sends everything there.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the entry.")] = False,
    config: ConfigOption = None,
) -> None:
    """Append a [[destination]] to the configuration. Every other option of it can be written there afterwards."""
    from relaypacs.cli import destinations, settings
    from relaypacs.config.options import endpoint

    path = settings.find(config or context.obj)
    loaded = settings.load(path, secrets=False)
    options: dict[str, object] = {"name": name, "kind": "dicomweb", "url": to, "called_ae": called}
    if "://" not in to:
        try:
            host, port = endpoint(to)
        except ValueError as problem:
            raise typer.BadParameter(f"--to: {problem}, or a URL of a DICOMweb service") from None
        if not called:
            raise typer.BadParameter("--called is missing: the AE title under which it is called by C-STORE")
        options = {"name": name, "kind": "dimse", "host": host, "port": port, "called_ae": called}
    options |= {"calling_ae": calling, "tls": tls, "tls_ca": tls_ca, "credentials_env": credentials_env}
    raise typer.Exit(
        destinations.add(loaded, path, options, everything=everything, dry_run=dry_run, environ=os.environ)
    )


@app.command("remove")
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="DEST", help="Name of a [[destination]].")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing.")] = False,
    config: ConfigOption = None,
) -> None:
    """Take a [[destination]] out of the configuration. Exit code 1 if it is still owed something."""
    from relaypacs.cli import destinations, settings

    path = settings.find(config or context.obj)
    loaded = settings.load(path, secrets=False)
    raise typer.Exit(destinations.remove(loaded, path, name, dry_run=dry_run, environ=os.environ))


@app.command("forget")
def forget(
    context: typer.Context,
    destination: Annotated[str, typer.Argument(metavar="DEST", help="Name of a [[destination]].")],
    config: ConfigOption = None,
) -> None:
    """Forget what a destination refused. Callers are offered it again, and the running node follows at once."""
    from relaypacs.cli import refused, settings

    loaded = settings.load(config or context.obj, secrets=False)
    raise typer.Exit(refused.forget(loaded, settings.destination_named(loaded, destination).name))


@app.command("test")
def try_out(
    context: typer.Context,
    destination: Annotated[str, typer.Argument(metavar="DEST", help="Name of a [[destination]].")],
    config: ConfigOption = None,
    store: Annotated[
        bool, typer.Option("--store", help="Also store one synthetic object there, and say how to remove it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Try a destination step by step. TCP, TLS, association, C-ECHO, which SOP classes in which transfer syntaxes.

    Exit code 1 if a step failed. Without --store nothing is left there. What it refused before is forgotten if nothing
    failed, unless it is refused now too.
    """
    from relaypacs import log
    from relaypacs.cli import refused, say, settings

    loaded = settings.load(config or context.obj)
    chosen = settings.destination_named(loaded, destination)
    from relaypacs.forward.examine import CLASSES, SYNTAXES, examine
    from relaypacs.forward.names import spoken

    log.setup(level="critical", json_lines=False, service="cli")
    found = examine(chosen, calling_ae=loaded.receive.ae_titles[0], store=store)
    refused.learn(loaded, chosen, found)
    if as_json:
        accepted = None
        if found.accepted is not None:
            accepted = {one: [syntax for syntax in SYNTAXES if (one, syntax) in found.accepted] for one in CLASSES}
        say.out_json(
            {
                "destination": chosen.name,
                "ok": found.ok,
                "steps": [{"step": one.name, "ok": one.ok, "sentence": one.sentence} for one in found.steps],
                "max_pdu_bytes": found.max_pdu_bytes,
                "max_operations": found.window,
                "accepted": accepted,
            }
        )
        raise typer.Exit(0 if found.ok else 1)
    for step in found.steps:
        say.out(f"{_MARKS[step.ok]:<8}{step.name:<13}{step.sentence}")
    if found.accepted:
        say.out()
        for number, syntax in enumerate(SYNTAXES, 1):
            say.out(f"  {number}  {spoken(syntax)}")
        columns = ["SOP class", *(str(number) for number in range(1, len(SYNTAXES) + 1))]
        rows = [
            [spoken(one), *("yes" if (one, syntax) in found.accepted else "-" for syntax in SYNTAXES)]
            for one in CLASSES
        ]
        say.out_table(columns, rows)
    raise typer.Exit(0 if found.ok else 1)
