"""`destination …`: what a destination takes, found out before the first patient."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at a destination.", no_args_is_help=True, rich_markup_mode=None)
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration; see `relaypacs --help`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON document.")]
_MARKS = {True: "ok", False: "FAILED", None: "note"}


@app.callback()
def group() -> None:
    """Look at a destination."""


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
    """Try a destination step by step: TCP, TLS, association, C-ECHO, which SOP classes in which transfer syntaxes.

    Exit code 1 if a step failed. Without --store nothing is left there.
    """
    from relaypacs import log
    from relaypacs.cli import say, settings

    loaded = settings.load(config or context.obj)
    chosen = settings.destination_named(loaded, destination)
    from relaypacs.forward.examine import CLASSES, SYNTAXES, examine
    from relaypacs.forward.names import spoken

    log.setup(level="critical", json_lines=False, service="cli")
    found = examine(chosen, calling_ae=loaded.receive.ae_titles[0], store=store)
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
