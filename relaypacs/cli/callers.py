"""`relaypacs caller …`: who may send here, an entry for a new modality or for somebody who was refused, and a question:
would this one be admitted? What is written is written by `writing`."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relaypacs.cli import editing, noted, say, writing
from relaypacs.config import Config, warnings
from relaypacs.config.model import Caller
from relaypacs.config.show import toml_value
from relaypacs.dicom.pdu import APPLICATION_CONTEXT, AssociateHead
from relaypacs.errors import ConfigError
from relaypacs.policy.admission import UNKNOWN_CALLER, WRONG_ADDRESS, Admitted, Peer, admit, find_caller
from relaypacs.policy.aetitle import check_ae_title

if TYPE_CHECKING:
    from relaypacs.jobs.associations import AssociationRow
    from relaypacs.jobs.store import JobStore


def show(config: Config, *, as_json: bool) -> int:
    """Everyone who may send, in the order of the file."""
    if as_json:
        say.out_json([caller.model_dump(mode="json") for caller in config.caller])
    elif not config.caller:
        say.tell("No [[caller]] is configured: nobody may send.")
    else:
        columns = ["calling AE title", "from", "to", "may", "SOP classes", "user identity"]
        say.out_table(columns, [_row(caller) for caller in config.caller])
    return 0


def _row(caller: Caller) -> list[str]:
    rights = [name for name, given in (("echo", caller.echo), ("store", caller.store)) if given]
    return [
        caller.ae_title,
        ", ".join(caller.networks) or "anywhere",
        ", ".join(caller.called_ae) or "any of ours",
        " and ".join(rights) or "nothing",
        ", ".join(caller.sop_classes) or "all",
        caller.credentials_env or "none",
    ]


def add_rejected(
    store: JobStore,
    config: Config,
    path: Path,
    *,
    association_id: str,
    network: str | None,
    dry_run: bool,
    environ: Mapping[str, str],
) -> int:
    """Write the entry that admits whoever was refused under this id. ConfigError with the reason if there is none."""
    from relaypacs.jobs.associations import Asked

    rows = store.associations.find(Asked(association_id=association_id, refused=True), limit=2)
    if not rows:
        say.tell("No refusal has this id; `relaypacs associations --rejected` lists them.")
        return 1
    if len(rows) > 1:
        raise ConfigError([f"more than one refusal begins with {say.printable(association_id)!r}; give more of the id"])
    options = entry(rows[0], config, network)
    note = f"for the refusal {rows[0].association_id}"
    return _append(config, path, options, note=note, dry_run=dry_run, environ=environ)


def add(config: Config, path: Path, options: dict[str, Any], *, dry_run: bool, environ: Mapping[str, str]) -> int:
    """Append a `[[caller]]` of these options (those that are empty left out)."""
    given = {name: value for name, value in options.items() if value not in (None, "", [], ())}
    return _append(config, path, given, note="", dry_run=dry_run, environ=environ)


def remove(
    config: Config, path: Path, title: str, *, network: str | None, dry_run: bool, environ: Mapping[str, str]
) -> int:
    """Take the `[[caller]]` of this very AE title (or pattern) out of the file."""
    found = [
        number
        for number, one in enumerate(config.caller)
        if one.ae_title == title and (network is None or network in one.networks)
    ]
    if not found:
        here = f" with {network}" if network else ""
        raise ConfigError(
            [f"no [[caller]] is called {say.printable(title)!r}{here}; `relaypacs caller list` shows all"]
        )
    if len(found) > 1:
        raise ConfigError([f"{len(found)} entries are called {title!r}; say which with --network"])
    change = editing.removed(path, "caller", found[0])
    if dry_run:
        say.out(f"Would remove caller[{found[0] + 1}] {title!r} from {change.path}.")
        return 0
    meant = config.model_copy(update={"caller": _except(config.caller, found[0])})
    return _finish(writing.write(change, path, environ, meant), path, config, "caller remove", title)


def _finish(written: writing.Written, path: Path, config: Config, command: str, title: str) -> int:
    code = writing.finish([written], path, config.run_dir)
    if code == 0:
        noted.changed(config, command, title)
    return code


def _except(callers: Sequence[Caller], number: int) -> tuple[Caller, ...]:
    return (*callers[:number], *callers[number + 1 :])


def _append(
    config: Config, path: Path, options: dict[str, Any], *, note: str, dry_run: bool, environ: Mapping[str, str]
) -> int:
    lines = [f"# Added by `relaypacs caller add`{f' {note}' if note else ''}.", "[[caller]]"]
    text = "\n".join([*lines, *(f"{name} = {toml_value(value)}" for name, value in options.items())])
    added = editing.item_of("caller", options)
    change = editing.appended(path, "caller", text)
    meant = config.model_copy(update={"caller": (*config.caller, added)})
    if dry_run:
        say.out(text)
        return 0
    written = writing.write(change, path, environ, meant)
    say.out(text)
    place = f'caller[{len(meant.caller)}] "{added.ae_title}": '
    for one in warnings(meant, environ):
        if one.startswith(place):
            say.tell(f"relaypacs: warning: {one}")
    return _finish(written, path, config, "caller add", added.ae_title)


def admits(
    config: Config, title: str, *, address: str | None, called: str | None, tls: bool, certificate: str | None
) -> int:
    """Say whether an association of this AE title would be admitted, and why; 1 if not."""
    receive = config.receive
    callers = config.caller
    if address is None:
        callers = tuple(one.model_copy(update={"networks": ()}) for one in callers)
    secure = tls or certificate is not None
    if secure:  # what it would have to show is told, not asked
        callers = tuple(one.model_copy(update={"credentials_env": ""}) for one in callers)
    called = called or receive.ae_titles[0]
    head = AssociateHead(1, _bytes(called), _bytes(title), APPLICATION_CONTEXT, b"", b"")
    peer = Peer(address or "0.0.0.0", tls=secure, certificate_names=(certificate,) if certificate else ())
    said = admit(head, peer, receive.model_copy(update={"conceal": False}), callers)
    who = f"{say.printable(title)}{f' from {say.printable(address)}' if address else ''}, calling {called}"
    if not isinstance(said, Admitted):
        say.out(f"{who}: would be rejected ({said.result}/{said.source}/{said.reason}): {said.sentence}.")
        return 1
    number = next(number for number, one in enumerate(callers) if one is said.caller)
    caller = config.caller[number]
    say.out(f'{who}: would be admitted by caller[{number + 1}] "{caller.ae_title}".')
    rights = [name for name, given in (("echo", caller.echo), ("store", caller.store)) if given]
    say.out(f"It may {' and '.join(rights) or 'do nothing'}: {', '.join(caller.sop_classes) or 'every SOP class'}.")
    if address is None and caller.networks:
        say.out(f"Only from {', '.join(caller.networks)}.")
    if secure and caller.credentials_env:
        say.out(f"Only with the user identity of {caller.credentials_env}_USERNAME.")
    if not secure and not receive.plain:
        say.out("But no listener is without TLS: [receive] plain is false.")
        return 1
    if secure and not config.tls.listen:
        say.out("But no listener has TLS: [tls] listen is empty.")
        return 1
    return 0


def _bytes(title: str) -> bytes:
    return title.encode("ascii", "replace").ljust(16)[:16]


def entry(row: AssociationRow, config: Config, network: str | None) -> dict[str, Any]:
    """The options of the `[[caller]]` for a refused peer. ConfigError where another one is not the mend."""
    from relaypacs.cli.associations import host_of, sentence

    if row.reason not in (UNKNOWN_CALLER, WRONG_ADDRESS):
        raise ConfigError([f"another [[caller]] would not help: {say.printable(sentence(row, config) or row.reason)}"])
    title = row.calling_ae
    try:
        check_ae_title(title)
    except ValueError as problem:
        raise ConfigError([f"{say.printable(title)!r} can't be admitted: {problem}"]) from None
    if set(title) & set("*?"):
        raise ConfigError([f"{title!r} holds `*` or `?`, which would admit others too: write its [[caller]] by hand"])
    try:
        address = str(ipaddress.ip_network(network or host_of(row.peer).partition("%")[0], strict=False))
    except ValueError:
        raise ConfigError(["write --network as a CIDR network such as 10.20.0.0/16, or an address"]) from None
    sensitive = config.receive.ae_titles_case_sensitive
    if find_caller(config.caller, title, case_sensitive=sensitive, peer_host=address.partition("/")[0]) is not None:
        raise ConfigError([f"a [[caller]] admits {title} from {address} already"])
    known = find_caller(config.caller, title, case_sensitive=sensitive)
    rights = known.model_dump(mode="json", exclude_defaults=True) if known is not None else {}
    return {"ae_title": title, "networks": [address]} | {
        name: value for name, value in rights.items() if name not in ("ae_title", "networks")
    }
