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
    from relaypacs.jobs.store import JobStore
    from relaypacs.jobs.values import Left

app = typer.Typer(help="Look after the nodes of a shared job table.", no_args_is_help=True, rich_markup_mode=None)

LOOK_SECONDS = 1.0
QUIET_SECONDS = 6.0
"""A node looks at its whole spool every 5 s: what it held unread has become rows by then."""


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
    """Take a node out of service: it refuses associations (try again later), and delivers or hands over what it has.

    Waits until it is empty and may be stopped for good. Exit code 1 if it is not: deliveries are held, or --no-wait.
    With --lost, for a node that never comes back: its deliveries become dead letters, its name is free.
    """
    from relaypacs.cli import settings
    from relaypacs.wake.hints import poke

    if (lost and (cancel or as_json)) or (cancel and dry_run):
        raise typer.BadParameter("--lost goes with --dry-run and --yes, --cancel with none of them")
    loaded = settings.load(config or context.obj, secrets=False)
    chosen = name or loaded.node.name
    with settings.jobs_of(loaded) as store:
        if lost:
            raise typer.Exit(_give_up(store, chosen, loaded.node.name, loaded.run_dir, dry_run=dry_run, yes=yes))
        if (left := store.nodes.left(chosen)) is None or (
            not dry_run and not store.nodes.drain(chosen, None if cancel else time.time())
        ):
            say.tell(f"No node {say.printable(chosen)!r} uses this job table.")
            raise typer.Exit(1)
        poke(loaded.hint_socket)
        if cancel:
            say.tell(f"Node {chosen} takes associations again.")
            raise typer.Exit(0)
        if wait and not dry_run:
            left = _wait(store, chosen, lambda: poke(loaded.hint_socket)) or left
    raise typer.Exit(_tell(chosen, left, as_json=as_json))


def _wait(store: JobStore, name: str, poke: Callable[[], None]) -> Left | None:
    """Until only a person can do something more; tells what changes."""
    told = ""
    quiet_since = time.monotonic()
    while (left := store.nodes.left(name)) is not None:
        if left.pending or left.segments:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since >= QUIET_SECONDS:
            break
        if store.nodes.draining_since(name) is None:
            say.tell("The drain was cancelled.")
            break
        now = f"{name}: {say.counted(left.pending, 'delivery')} pending, {say.counted(left.segments, 'segment')} in use"
        if now != told:
            say.tell(now)
            sys.stderr.flush()
            told = now
        poke()
        time.sleep(LOOK_SECONDS)
    return left


def _tell(name: str, left: Left, *, as_json: bool) -> int:
    empty = not (left.pending or left.held or left.segments)
    if as_json:
        say.out_json({"node": name, "empty": empty, **asdict(left)})
        return 0 if empty else 1
    if empty:
        say.out(f"Node {name} owes nothing: it can be stopped for good.")
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


def _give_up(store: JobStore, name: str, mine: str, run_dir: Path, *, dry_run: bool, yes: bool) -> int:
    from relaypacs import alive
    from relaypacs.cli import verbs

    if name == mine and alive.is_held(run_dir / "alive" / "relay"):
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
    while store.drain(name, time.time()):
        pass
    say.out(f"{say.counted(owed, 'delivery')} given up; the name {name} is free.")
    return 0
