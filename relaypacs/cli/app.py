"""The commands, their options and their help; what they do is in this folder's other files.

Every expected error ends as one sentence on standard error. Exit codes: 0 done, 1 the answer is no (refused, not
found, out of balance), 2 wrong usage or configuration, or a node whose database can't be had.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from relaypacs import __version__
from relaypacs.cli import (
    association_commands,
    config_commands,
    destination_commands,
    node_commands,
    operate_commands,
    restore_commands,
    say,
    storage_commands,
    verb_commands,
)
from relaypacs.errors import ConfigError, RelayPacsError

app = typer.Typer(
    name="relaypacs",
    help="A DICOM store-and-forward node: acknowledges only what it can never lose, and relays it.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: half the start-up time, and errors are one sentence
    pretty_exceptions_enable=False,
)
db_app = typer.Typer(help="Look after the job table.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_commands.app, name="config")
app.add_typer(db_app, name="db")
if find_spec("relaypacs.cli.spool") is not None:
    app.add_typer(import_module("relaypacs.cli.spool").app, name="spool")


class Role(StrEnum):
    """What `serve` runs."""

    ALL = "all"
    RECEIVE = "receive"
    RELAY = "relay"
    SIDECAR = "sidecar"


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration: a file, or a folder of *.toml files. "
        "Default: $RELAYPACS_CONFIG, ./relaypacs.toml, /etc/relaypacs/relaypacs.toml.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON document.")]


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command that `arguments` (default: those of the process) name, and exit.

    Every expected error becomes a sentence and an exit code.
    """
    try:
        app(args=arguments, prog_name="relaypacs")
    except ConfigError as wrong:
        for problem in wrong.problems:
            say.tell(f"relaypacs: {problem}")
        sys.exit(2)
    except RelayPacsError as error:
        say.tell(f"relaypacs: {error}")
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        say.tell(f"relaypacs: {say.printable(str(error.filename))}: {error.strerror}")
        sys.exit(2)
    sys.exit(0)


def _print_version(wanted: bool) -> None:
    if wanted:
        say.out(f"relaypacs {__version__}")
        raise typer.Exit


@app.callback()
def _everywhere(
    context: typer.Context,
    config: ConfigOption = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    context.obj = config


@app.command()
def serve(
    context: typer.Context,
    config: ConfigOption = None,
    role: Annotated[Role, typer.Option(help="Which of the node's processes to run.")] = Role.ALL,
) -> None:
    """Run the node until SIGTERM or Ctrl-C."""
    from relaypacs.cli import settings

    place = settings.find(config or context.obj)
    loaded, sources = settings.load_with_sources(place)
    from relaypacs.node import serve as serve_node

    raise typer.Exit(serve_node(loaded, role=role.value, place=place, sources=sources))


@app.command()
def echo(
    context: typer.Context,
    destination: Annotated[str, typer.Argument(metavar="DEST", help="Name of a [[destination]].")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a destination whether it answers. C-ECHO, or a request to its DICOMweb service."""
    from relaypacs.cli import settings

    loaded = settings.load(config or context.obj)
    chosen = settings.destination_named(loaded, destination)
    from relaypacs.cli import peers

    raise typer.Exit(peers.echo(loaded, chosen, as_json=as_json))


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="DICOM files, or folders of them.")],
    to: Annotated[str, typer.Option("--to", metavar="HOST:PORT", help="Where to send.")],
    called: Annotated[str, typer.Option("--called", metavar="AET", help="AE title of the receiver.")],
    calling: Annotated[str, typer.Option("--calling", metavar="AET", help="AE title we present.")] = "RELAYPACS",
    as_json: JsonOption = False,
    _config: Annotated[Path | None, typer.Option("--config", "-c", hidden=True)] = None,
) -> None:
    """Send files by C-STORE, as a modality does. Succeeds only if every object was accepted."""
    from relaypacs.cli import peers

    raise typer.Exit(peers.send(paths, to=to, called=called, calling=calling, as_json=as_json))


@app.command()
def queue(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """What each destination is owed, and what it waits for. By state, and for how long."""
    from relaypacs.cli import settings

    loaded = settings.load(config or context.obj, secrets=False)
    with settings.jobs_of(loaded) as store:
        from relaypacs.cli import jobs

        raise typer.Exit(jobs.queue(store, loaded, as_json=as_json))


@app.command()
def trace(
    context: typer.Context,
    term: Annotated[
        str,
        typer.Argument(
            metavar="TERM", help="Study, series or SOP instance UID, accession number, or patient ID; exactly as sent."
        ),
    ],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Where each copy of it is, and why one is not there. When it was received, and from whom."""
    from relaypacs.cli import settings

    loaded = settings.load(config or context.obj, secrets=False)
    with settings.jobs_of(loaded) as store:
        from relaypacs.cli import jobs

        raise typer.Exit(jobs.trace(store, loaded, term, as_json=as_json))


@app.command()
def ledger(
    context: typer.Context,
    association: Annotated[str | None, typer.Option(metavar="ID", help="Only what came over this association.")] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Only this study.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """The books: whether all that was received is accounted for. Exit code 1 if not."""
    from relaypacs.cli import settings

    if association is not None and study is not None:
        raise typer.BadParameter("give --association or --study, not both")
    with settings.jobs_of(settings.load(config or context.obj, secrets=False)) as store:
        from relaypacs.cli import jobs

        raise typer.Exit(jobs.ledger(store, association=association, study=study, as_json=as_json))


@app.command()
def marked(
    context: typer.Context,
    *,
    mark: Annotated[
        list[str] | None, typer.Option(metavar="MARK", help="Only unrouted, conflict or unparsed (repeatable).")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="At most so many studies a mark.")] = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """What wants a person's eye. Studies no rule matched, with other bytes under a known UID, or unreadable heads."""
    from relaypacs.cli import settings
    from relaypacs.jobs.marks import Mark

    if unknown := set(mark or ()) - set(Mark):
        raise typer.BadParameter(f"--mark: there is no {', '.join(sorted(unknown))}; there are {', '.join(Mark)}")
    with settings.jobs_of(settings.load(config or context.obj, secrets=False)) as store:
        from relaypacs.cli import marked as eye

        marks = [Mark(one) for one in mark] if mark else list(Mark)
        raise typer.Exit(eye.marked(store, marks, limit=limit, as_json=as_json))


@db_app.command("migrate")
def db_migrate(context: typer.Context, config: ConfigOption = None) -> None:
    """Bring the job table to this version's schema. `serve` does so by itself."""
    from relaypacs.cli import settings

    loaded = settings.load(config or context.obj, secrets=False)
    from relaypacs.jobs.store import JobStore

    store = JobStore.open(loaded.jobs_url, identifiers=loaded.node.identifiers)
    try:
        store.migrate()
    finally:
        store.close()
    say.tell("The job table has this version's schema.")


verb_commands.add_to(app)
association_commands.add_to(app)
operate_commands.add_to(app)
restore_commands.add_to(app)
storage_commands.add_to(app)
app.add_typer(node_commands.app, name="node")
app.add_typer(destination_commands.app, name="destination")
