"""`relaypacs node …`: the nodes that share a job table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relaypacs.cli import say
from relaypacs.errors import ConfigError

if TYPE_CHECKING:
    from relaypacs.config import Config
    from relaypacs.jobs.store import JobStore
    from relaypacs.jobs.values import Left

app = typer.Typer(help="Look after the nodes of a shared job table.", no_args_is_help=True, rich_markup_mode=None)

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 15.0
"""A node that is being drained says every 2 s how it stands; the first time it may take 5 s to hear of it."""


@app.callback()
def _group() -> None:
    """A group, also with one command."""


@app.command("drain")
def drain(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="[node] name. Default: that of the configuration.")
    ] = None,
    *,
    cancel: Annotated[bool, typer.Option("--cancel", help="Take associations again.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the node is empty.")] = True,
    lost: Annotated[
        bool, typer.Option("--lost", help="The node and its disk are gone for good: give up what it owed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask (--lost).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON document.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration; see `relaypacs --help`.")
    ] = None,
) -> None:
    """Take a node out of service. It refuses associations (try again later), and delivers or hands over what it has.

    Waits until the node says that it is empty and may be stopped for good. Exit code 1 if it is not, or can't say so:
    deliveries are held, it does not answer, --no-wait or --dry-run.
    With --lost, for a node that never comes back: its deliveries become dead letters, its name is free.
    """
    from relaypacs.cli import settings
    from relaypacs.cli.noted import note
    from relaypacs.wake.hints import poke

    if (lost and (cancel or as_json)) or (cancel and dry_run):
        raise typer.BadParameter("--lost goes with --dry-run and --yes, --cancel with none of them")
    loaded = settings.load(config or context.obj, secrets=False)
    chosen = name or loaded.node.name
    with settings.jobs_of(loaded) as store:
        if lost:
            raise typer.Exit(_give_up(store, chosen, loaded, dry_run=dry_run, yes=yes))
        if (left := store.nodes.left(chosen)) is None or (
            not dry_run and not store.nodes.drain(chosen, None if cancel else time.time())
        ):
            say.tell(f"No node {say.printable(chosen)!r} uses this job table.")
            raise typer.Exit(1)
        if not dry_run:
            note(store, loaded, "drain", {"drained": chosen, "cancelled": cancel})
        poke(loaded.hint_socket)
        if cancel:
            say.tell(f"Node {chosen} takes associations again.")
            raise typer.Exit(0)
        drained = False
        if wait and not dry_run:
            left, drained = _wait(store, chosen, left, lambda: poke(loaded.hint_socket))
    raise typer.Exit(_tell(chosen, left, drained=drained, waited=wait and not dry_run, as_json=as_json))


def _wait(store: JobStore, name: str, left: Left, poke: Callable[[], None]) -> tuple[Left, bool]:
    """Until only a person can do something more; tells what changes. The last count, and whether the node itself
    said, after it was asked, that nothing can come any more."""
    told = ""
    answers = 0
    heard_at = time.monotonic()
    # The node's word first: the rows are complete since then.
    while (said := store.nodes.answers(name)) is not None and (counted := store.nodes.left(name)) is not None:
        left = counted
        if said.answers != answers:
            answers, heard_at = said.answers, time.monotonic()
        elif time.monotonic() - heard_at >= PATIENCE_SECONDS:
            say.tell(f"Node {name} does not answer: is it running? If it is gone for good, add --lost.")
            return left, False
        if said.drained and not (left.pending or left.segments):
            return left, True
        now = f"{name}: {say.counted(left.pending, 'delivery')} pending, {say.counted(left.segments, 'segment')} in use"
        if not said.drained:
            now += "; it ends its associations and reads its spool" if answers else "; it has not answered yet"
        if now != told:
            say.tell(now)
            sys.stderr.flush()
            told = now
        poke()
        time.sleep(LOOK_SECONDS)
    say.tell("The drain was cancelled.")
    return left, False


def _tell(name: str, left: Left, *, drained: bool, waited: bool, as_json: bool) -> int:
    nothing = not (left.pending or left.held or left.segments)
    empty = nothing and drained
    if as_json:
        say.out_json({"node": name, "empty": empty, **asdict(left)})
        return 0 if empty else 1
    if empty:
        say.out(f"Node {name} owes nothing: it can be stopped for good.")
    elif nothing:
        say.out(f"The job table knows of nothing that node {name} owes, but the node has not said that it is empty.")
        if not waited:
            say.tell("To have it say so, run this without --no-wait and --dry-run.")
    else:
        say.out(
            f"Node {name} is not empty: {say.counted(left.pending, 'delivery')} pending, {left.held} held, "
            f"{say.counted(left.segments, 'segment')} of its spool in use."
        )
    if left.held:
        say.tell("What is held waits for a person: `relaypacs release` or `discard`.")
    if left.failed:
        say.tell(
            f"{say.counted(left.failed, 'dead letter')} of it: `relaypacs retry` while the node runs, "
            "or their bytes go with its disk."
        )
    return 0 if empty else 1


def _give_up(store: JobStore, name: str, config: Config, *, dry_run: bool, yes: bool) -> int:
    from relaypacs import alive
    from relaypacs.cli import verbs
    from relaypacs.cli.noted import note

    if name == config.node.name and alive.is_held(config.run_dir / "alive" / "relay"):
        raise ConfigError([f"node {name} runs here, so it is not lost; `relaypacs node drain {name}` empties it"])
    owed = store.owes(name)
    if owed is None:
        say.tell(f"No node {say.printable(name)!r} uses this job table.")
        return 1
    what = f"give up {say.counted(owed, 'delivery')} of node {name}, for good"
    if dry_run:
        say.out(f"Would {what}.")
        return 0
    if not yes and not verbs.agreed(what):
        say.tell("Nothing was changed.")
        return 1
    note(store, config, "give-up", {"node_lost": name, "deliveries": owed})  # before: it may be interrupted
    while store.drain(name, time.time()):
        pass
    say.out(f"{say.counted(owed, 'delivery')} given up; the name {name} is free.")
    return 0
