"""The options and help of `hold`, `release`, `retry`, `discard` and `resend`; `verbs` says what they do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from relaypacs.jobs.states import Verb

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration; see `relaypacs --help`.")
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="DEST", help="Only deliveries to this destination.")]
StudyOption = Annotated[str | None, typer.Option("--study", metavar="UID", help="Only this study.")]
CallerOption = Annotated[str | None, typer.Option("--caller", metavar="AET", help="Only what this AE title sent.")]
StateOption = Annotated[
    list[str] | None, typer.Option("--state", metavar="STATE", help="Only deliveries in this state; repeatable.")
]
OlderOption = Annotated[
    str | None, typer.Option("--older-than", metavar="AGE", help="Only what was queued longer ago: 90s, 30m, 2h, 7d.")
]
NewerOption = Annotated[
    str | None, typer.Option("--newer-than", metavar="AGE", help="Only what was queued less long ago.")
]
AllOption = Annotated[bool, typer.Option("--all", help="Everything there is.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only count.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON document.")]

_HELP = {
    Verb.HOLD: "Keep queued and deferred deliveries from going. `release` lets them go.",
    Verb.RELEASE: "Let held deliveries go.",
    Verb.RETRY: "Try deferred deliveries now, and queue failed ones anew. Failed ones are the dead letters.",
    Verb.DISCARD: "Give up deliveries that are not on their way. They are never sent.",
}


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for verb, text in _HELP.items():
        app.command(verb.value, help=text)(_command(verb))
    app.command("resend")(resend)


def _command(verb: Verb):  # type: ignore[no-untyped-def]  # the options are its type
    def command(
        context: typer.Context,
        *,
        to: ToOption = None,
        study: StudyOption = None,
        caller: CallerOption = None,
        state: StateOption = None,
        older_than: OlderOption = None,
        newer_than: NewerOption = None,
        everything: AllOption = False,
        dry_run: DryRunOption = False,
        yes: YesOption = False,
        as_json: JsonOption = False,
        config: ConfigOption = None,
    ) -> None:
        _run(
            verb,
            config or context.obj,
            to=to,
            study=study,
            caller=caller,
            states=state or [],
            older_than=older_than,
            newer_than=newer_than,
            everything=everything,
            dry_run=dry_run,
            confirmed=yes,
            as_json=as_json,
        )

    return command


def resend(
    context: typer.Context,
    *,
    to: Annotated[str, typer.Option("--to", metavar="DEST", help="Name of a [[destination]].")],
    uid: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="Study Instance UID.", show_default=False)
    ] = None,
    study: StudyOption = None,
    caller: CallerOption = None,
    state: StateOption = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Queue a study, or what the options name, again. As far as its bytes are still kept.

    Ages count from reception; --state is that of the latest delivery to DEST. One study goes without asking.
    """
    if uid is not None and study is not None:
        raise typer.BadParameter("give STUDY or --study, not both")
    _run(
        Verb.RESEND,
        config or context.obj,
        to=to,
        study=uid if uid is not None else study,
        caller=caller,
        states=state or [],
        older_than=older_than,
        newer_than=newer_than,
        everything=everything,
        dry_run=dry_run,
        confirmed=yes or uid is not None,
        as_json=as_json,
    )


def _run(
    verb: Verb,
    config: Path | None,
    *,
    to: str | None,
    study: str | None,
    caller: str | None,
    states: list[str],
    older_than: str | None,
    newer_than: str | None,
    everything: bool,
    dry_run: bool,
    confirmed: bool,
    as_json: bool,
) -> None:
    from relaypacs.cli import settings, verbs
    from relaypacs.wake.hints import poke

    loaded = settings.load(config, secrets=False)
    if verb is Verb.RESEND and to is not None:
        settings.destination_named(loaded, to)
    which = verbs.selection(
        verb,
        destination=to,
        study=study,
        calling_ae=caller,
        states=states,
        older_than=older_than,
        newer_than=newer_than,
        everything=everything,
        now=time.time(),
    )
    with settings.jobs_of(loaded) as store:
        code = verbs.act(
            store,
            verb,
            which,
            dry_run=dry_run,
            confirmed=confirmed,
            as_json=as_json,
            # A node that runs here looks at once; any other within a minute.
            poke=lambda: poke(loaded.hint_socket),
        )
    raise typer.Exit(code)
