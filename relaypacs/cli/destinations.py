"""`relaypacs destination add|list|remove`: where objects go. What is written is written by `writing`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relaypacs.cli import editing, noted, refused, say, settings, writing
from relaypacs.config import Config, Destination, Rule
from relaypacs.config.show import toml_value
from relaypacs.errors import ConfigError
from relaypacs.model import State


def show(config: Config, *, as_json: bool) -> int:
    """Every destination, in the order of the file, and what sends to it."""
    if as_json:
        say.out_json(
            [
                {
                    **one.model_dump(mode="json"),
                    "named_by": _named_by(config, one.name),
                    "refused": refused.as_json(config, one.name),
                }
                for one in config.destination
            ]
        )
    elif not config.destination:
        say.tell("No [[destination]] is configured: what is received stays here.")
    else:
        rows = [
            [one.name, one.kind, _where(one), ", ".join(_named_by(config, one.name)) or "nothing"]
            for one in config.destination
        ]
        say.out_table(["name", "kind", "where", "what sends there"], rows)
        for line in refused.lines(config):
            say.out(line)
    return 0


def add(
    config: Config,
    path: Path,
    options: dict[str, Any],
    *,
    everything: bool,
    dry_run: bool,
    environ: Mapping[str, str],
) -> int:
    """Append a `[[destination]]`; `everything`: and a rule that sends all objects there."""
    given = {name: value for name, value in options.items() if value not in (None, "", False)}
    if any(one.name == given["name"] for one in config.destination):
        raise ConfigError([f"there is a destination {given['name']} already; choose another name, or remove it first"])
    tables = [("destination", given)]
    if everything:
        tables.append(("rule", {"name": f"everything-to-{given['name']}"[:63], "to": [given["name"]]}))
    text = "\n\n".join(_toml(kind, table) for kind, table in tables)
    added = {kind: editing.item_of(kind, table) for kind, table in tables}
    change = editing.appended(path, "destination", text)
    meant = config.model_copy(update={kind: (*getattr(config, kind), one) for kind, one in added.items()})
    if dry_run:
        say.out(text)
        return 0
    written = writing.write(change, path, environ, meant)
    say.out(text)
    prefix = given.get("credentials_env")
    if code := writing.finish([written], path, config.run_dir):
        if prefix:
            say.tell(
                f"Secrets count where the node is started, not in this shell: give it {prefix}_TOKEN, or "
                f"{prefix}_USERNAME and {prefix}_PASSWORD (or …_FILE), start it again, then add {given['name']}."
            )
        return code
    noted.changed(config, "destination add", given["name"])
    if prefix:
        say.tell(
            f"A node that is started needs {prefix}_TOKEN, or {prefix}_USERNAME and {prefix}_PASSWORD (or …_FILE)."
        )
    if not everything and not _named_by(config, given["name"]):
        say.tell(f'No rule sends there yet: add "{given["name"]}" to `to` of a [[rule]], or to [routing] default.')
    say.tell(f"Try it: relaypacs destination test {given['name']}")
    return code


def remove(config: Config, path: Path, name: str, *, dry_run: bool, environ: Mapping[str, str]) -> int:
    """Take a `[[destination]]` out of the file, and the rule that `add --everything` wrote, if it is still as it was.

    Not while another rule names it, or something is owed to it.
    """
    chosen = settings.destination_named(config, name)
    ours = next((at for at, one in enumerate(config.rule) if one == _everything_rule(name)), None)
    named = [
        f"rule[{at + 1}] {one.name!r} ({editing.stands_at(path, 'rule', at)})"
        for at, one in enumerate(config.rule)
        if name in one.to and at != ours
    ]
    named += ["[routing] default"] if name in config.routing.default else []
    named += [f"`fallback` of {one.name}" for one in config.destination if one.fallback == name]
    if named:
        verb = "send" if len(named) > 1 else "sends"
        raise ConfigError([f"{' and '.join(named)} {verb} to {name}: take it out of there first, in the file"])
    if refusal := _owed(config, name):
        say.tell(refusal)
        return 1
    number = config.destination.index(chosen)
    left = (*config.destination[:number], *config.destination[number + 1 :])
    meant = config.model_copy(update={"destination": left})
    if ours is None:
        change = editing.removed(path, "destination", number)
    else:
        change = editing.removed_both(path, ("destination", number), ("rule", ours))
        meant = meant.model_copy(update={"rule": (*config.rule[:ours], *config.rule[ours + 1 :])})
    what = f"destination {name}" + (f" and its rule {config.rule[ours].name}" if ours is not None else "")
    if dry_run:
        say.out(f"Would remove {what} from {change.path}.")
        return 0
    written = writing.write(change, path, environ, meant)
    say.out(f"Removing {what}.")
    if not (code := writing.finish([written], path, config.run_dir)):
        noted.changed(config, "destination remove", name)
    return code


def _everything_rule(name: str) -> Rule:
    """What `add --everything` writes."""
    return Rule(name=f"everything-to-{name}"[:63], to=(name,))


def _owed(config: Config, name: str) -> str:
    """Why the job table keeps a destination from being removed, or nothing. JobsError if it can't be asked."""
    if config.jobs_file is not None and not config.jobs_file.exists():
        return ""  # the node has not run yet
    with settings.jobs_of(config) as store:
        counts = next((row.counts for row in store.queue(time.time()) if row.destination == name), {})
    failed = counts.get(State.FAILED, 0)
    live = sum(counts.values()) - failed
    if not live + failed:
        return ""
    parts = [
        f"{say.counted(live, 'delivery')} not over" if live else "",
        say.counted(failed, "dead letter") if failed else "",
    ]
    return (
        f"{name} is owed {' and '.join(filter(None, parts))}, so it stays: wait until `relaypacs queue` shows nothing, "
        f"send elsewhere with `relaypacs resend`, or give them up with `relaypacs discard --to {name}`."
    )


def _named_by(config: Config, name: str) -> list[str]:
    rules = [f"rule[{number}] {one.name!r}" for number, one in enumerate(config.rule, 1) if name in one.to]
    falls = [f"fallback of {one.name}" for one in config.destination if one.fallback == name]
    return [*rules, *(["[routing] default"] if name in config.routing.default else []), *falls]


def _where(one: Destination) -> str:
    return (
        one.url if one.kind == "dicomweb" else f"{one.called_ae} at {one.host}:{one.port}{' (TLS)' if one.tls else ''}"
    )


def _toml(kind: str, table: Mapping[str, Any]) -> str:
    note = f"# Added by `relaypacs destination add`.\n[[{kind}]]\n"
    return note + "\n".join(f"{name} = {toml_value(value)}" for name, value in table.items())
