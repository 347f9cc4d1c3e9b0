"""`relaypacs worksheet`: what to type into a modality so that it sends here, from the configuration in force."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from relaypacs.cli import say
from relaypacs.config.options import endpoint
from relaypacs.policy.admission import find_caller
from relaypacs.policy.association_advice import name_of

if TYPE_CHECKING:
    from relaypacs.config import Caller, Config

_ANY = {"0.0.0.0", "::"}
_SAFE = "Explicit VR Little Endian, Implicit VR Little Endian"
"""What every archive takes (PS3.5 10.1)."""


def worksheet(config: Config, calling_ae: str, address: str, *, as_json: bool) -> int:
    """Print it. `calling_ae`: whose (empty: anybody's); `address`: this node's, as the modality reaches it (empty:
    the configured one, or this machine's name). 1 if that AE title may not send here."""
    caller = (
        find_caller(config.caller, calling_ae, case_sensitive=config.receive.ae_titles_case_sensitive)
        if calling_ae
        else None
    )
    rows = _rows(config, caller, calling_ae, address)
    refused = bool(calling_ae) and caller is None
    if as_json:
        say.out_json({"admitted": not refused, **{name: value for name, _, value in rows}})
        return int(refused)
    say.out(f"To send to {config.node.name}, set at the modality:")
    say.out()
    width = max(len(label) for _, label, _ in rows)
    for _, label, value in rows:
        for number, line in enumerate(value.split("\n")):
            say.out(f"  {label if number == 0 else '':<{width}}  {say.printable(line)}")
    say.out()
    say.out('Try it with the modality\'s echo (C-ECHO, "verify") first, then with one study:')
    say.out("`relaypacs associations` shows what arrived and why something was refused.")
    if refused:
        title = say.printable(calling_ae)
        say.tell(f"{title} may not send here yet: `relaypacs caller add {title}` lets it.")
    return int(refused)


def _rows(config: Config, caller: Caller | None, calling_ae: str, address: str) -> list[tuple[str, str, str]]:
    """Name for machines, label for people, value."""
    receive = config.receive
    host = address or (receive.host if receive.host not in _ANY else socket.gethostname())
    called = caller.called_ae if caller is not None and caller.called_ae else receive.ae_titles
    plain = [receive.port, *(endpoint(one)[1] for one in receive.also_listen)] if receive.plain else []
    if caller is not None and (caller.certificate or caller.credentials_env):
        plain = []  # it has to prove who it is, and that only TLS can do
    tls = [endpoint(one)[1] for one in config.tls.listen]
    rows = [
        ("called_ae", "AE title to call", " or ".join(called)),
        ("host", "host or address", host),
    ]
    if plain:
        rows.append(("port", "port", _ports(plain)))
    if tls:
        shown = {"none": "no certificate of its own needed", "optional": "its own certificate may be shown"}.get(
            config.tls.client_certificates, "with a certificate of its own, issued by a CA this node trusts"
        )
        rows.append(("tls_port", "port with TLS", f"{_ports(tls)} (TLS 1.2 or 1.3, PS3.15 B.12; {shown})"))
    rows.append(("calling_ae", "its own AE title", calling_ae or _titles(config)))
    if caller is not None and caller.networks:
        rows.append(("networks", "its own address", "in " + ", ".join(caller.networks)))
    if caller is not None and caller.credentials_env:
        rows.append(("user_identity", "user identity", "user name and passcode, over TLS only"))
    rows += [
        ("services", "services", _services(caller)),
        ("sop_classes", "SOP classes", _classes(config, caller)),
        ("transfer_syntaxes", "transfer syntaxes", _syntaxes(config)),
        (
            "max_pdu_bytes",
            "largest PDU",
            f"{receive.max_pdu_bytes} bytes (more than the usual 16384 is faster)",
        ),
        ("timeout", "timeouts", "association 30 s, DIMSE response 60 s or more, several tries for transient errors"),
        ("storage_commitment", "storage commitment", _COMMITMENT),
    ]
    return rows


_COMMITMENT = (
    "leave it off towards this node, which does not offer it.\n"
    "Success means durable here, and it will be delivered.\n"
    "Let the modality keep its copy for some days all the same."
)


def _ports(found: list[int]) -> str:
    return " or ".join(map(str, dict.fromkeys(found)))


def _titles(config: Config) -> str:
    known = [caller.ae_title for caller in config.caller]
    return f"one that is admitted: {', '.join(known)}" if known else "none is admitted yet"


def _services(caller: Caller | None) -> str:
    rights = [
        name
        for name, allowed in (
            ("Storage (C-STORE)", caller is None or caller.store),
            ("Verification (C-ECHO)", caller is None or caller.echo),
        )
        if allowed
    ]
    return ", ".join(rights) or "none"


def _classes(config: Config, caller: Caller | None) -> str:
    if caller is not None and caller.sop_classes:
        return ", ".join(caller.sop_classes)
    private = len(config.receive.private_sop_classes)
    return "every storage SOP class of the standard" + (f", and {private} private ones" if private else "")


def _syntaxes(config: Config) -> str:
    chosen = config.receive.transfer_syntaxes
    if chosen:
        return "\n".join(f"{name_of(uid)} ({uid})" for uid in chosen)
    return f"any; nothing is converted on the way, so choose what the archives behind take:\n{_SAFE} are safe"
