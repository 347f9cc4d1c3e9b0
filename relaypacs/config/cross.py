"""What tables say of each other: names that exist and are unique, ports that don't clash, what deserves a warning.

`problems` sees also a configuration that is wrong elsewhere (tables that didn't validate are None), so that a person
is told everything at once. `warnings` sees a whole one.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

from relaypacs.config.doubts import absent_files, slow_patterns
from relaypacs.config.environment import overlooked
from relaypacs.config.fallbacks import circles, unkept
from relaypacs.config.model import Caller, Config, Destination, Node, Receive, Rule, Sidecar, Staging
from relaypacs.config.options import endpoint
from relaypacs.config.places import Location, Places, Problem
from relaypacs.config.problems import names_of
from relaypacs.config.profiles import STRICT, is_loopback, refusals
from relaypacs.config.secrets import caller_credentials, credentials, storage_keys
from relaypacs.config.shadows import same_destinations, shadowed_callers
from relaypacs.dicom.modality import DEFINED
from relaypacs.errors import ConfigError
from relaypacs.policy.pattern import is_literal

_ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})


def problems(
    good: Mapping[str, Any], raw: Mapping[str, Any], names: Mapping[Location, str], environ: Mapping[str, str]
) -> Iterator[Problem]:
    """Problems between the tables of `good` (as `problems.validate` returns it; `raw` is what it was given).

    `names` are the names of all list items, valid or not: a rule may name a destination that has a typo elsewhere.
    """
    for section in ("destination", "rule"):
        here = [at for at in names if at[0] == section]
        yield from _repeated(((at, names[at]) for at in here), "name", "is used before; names are unique")
    callers = [
        (("caller", number), (one.ae_title, frozenset(one.networks), frozenset(one.called_ae), one.certificate))
        for number, one in enumerate(good["caller"])
        if one is not None
    ]
    yield from _repeated(callers, "ae_title", "stands before with the same networks; keep one of them")
    for number, caller in enumerate(good["caller"]):
        yield from _caller_without_credentials(caller, ("caller", number, "credentials_env"), environ)
    known = [name for at, name in names.items() if at[0] == "destination"]
    for number in range(len(good["rule"])):
        yield from _unknown(_texts(raw["rule"][number], "to"), ("rule", number, "to"), known)
    yield from _unknown(_texts(raw.get("routing"), "default"), ("routing", "default"), known)
    for number, one in enumerate(good["destination"]):
        if one is not None and one.fallback:
            yield from _unknown([one.fallback], ("destination", number, "fallback"), known)
    yield from circles(good["destination"])
    yield from _clashing(good["receive"], good["sidecar"])
    yield from _open_sidecar(good["node"], good["sidecar"])
    if good["receive"] and good["tls"] and not good["receive"].plain and not good["tls"].listen:
        yield Problem(("receive", "plain"), "nobody could send: give [tls] listen, or leave plain = true")
    yield from _same_folder(good)
    for number, caller in enumerate(good["caller"]):
        if caller is not None and caller.ack == "staged":
            yield from _never_staged(good["staging"], good["receive"], ("caller", number, "ack"))
    yield from _without_storage_keys(good["staging"], environ)
    for number, destination in enumerate(good["destination"]):
        yield from _without_credentials(destination, ("destination", number, "credentials_env"), environ)


def warnings(config: Config, environ: Mapping[str, str]) -> list[str]:
    """What works as configured but hardly as meant, one sentence each."""
    return [
        *_about_callers(config),
        *shadowed_callers(config.caller, case_sensitive=config.receive.ae_titles_case_sensitive),
        *_about_destinations(config),
        *same_destinations(config.destination),
        *unkept(config.destination, config.staging),
        *_about_rules(config.rule),
        *slow_patterns(config),
        *absent_files(config),
        *_about_staging(config.staging),
        *_about_redis(config),
        *_about_profile(config, environ),
        *overlooked(environ),
    ]


def _about_callers(config: Config) -> Iterator[str]:
    receive = config.receive
    if receive.ack == "buffered":
        yield 'receive ack = "buffered": Success is answered before anything is durable; for benchmarks only'
    if receive.port == 0 and receive.plain:
        yield "receive port = 0: another port at every start, which no modality knows; name one"
    if any(ip_network(one, strict=False).prefixlen == 0 for one in receive.proxy_from):
        yield "receive proxy_from: anyone may claim any address, so networks and limits mean nothing; name balancers"
    if not config.caller:
        yield "no [[caller]]: nobody may send; add one per modality"
    for number, caller in enumerate(config.caller, 1):
        if set(caller.ae_title) == {"*"} and not caller.networks and receive.host in _ANY_ADDRESS:
            yield f'caller[{number}] "*": anyone who reaches port {receive.port} may send; name networks or AE titles'
        if caller.certificate and config.tls.client_certificates == "none":
            place = f'caller[{number}] "{caller.ae_title}"'
            yield f'{place}: nobody shows a certificate; set [tls] client_certificates = "optional" or "required"'
        if caller.credentials_env and not config.tls.listen:
            yield f'caller[{number}] "{caller.ae_title}": its user identity counts inside TLS only; give [tls] listen'
        called = _ae_titles(caller.called_ae, config)
        if receive.check_called_ae and called and not called & _own_ae_titles(config):
            place = f'caller[{number}] "{caller.ae_title}"'
            yield f"{place}: none of its called_ae is in [receive] ae_titles, so it may send nothing; add it there"
        if not (caller.echo or caller.store):
            yield f'caller[{number}] "{caller.ae_title}": may neither echo nor store; leave it out, or give it a right'


def _about_destinations(config: Config) -> Iterator[str]:
    if not config.destination:
        yield "no [[destination]]: what is received stays here, unrouted"
    used = {name for rule in config.rule for name in rule.to} | set(config.routing.default)
    used |= {one.fallback for one in config.destination}
    for number, one in enumerate(config.destination, 1):
        place = f'destination[{number}] "{one.name}"'
        if one.name not in used:
            yield f"{place}: no rule names it and it is no default, so nothing goes there"
        if one.credentials_env and one.url.startswith("http://") and not is_loopback(urlsplit(one.url).hostname or ""):
            yield f"{place}: its credentials travel unencrypted; use https"
        if one.kind == "dimse" and _is_own_port(one, config):
            if not config.receive.check_called_ae or _ae_titles([one.called_ae], config) & _own_ae_titles(config):
                yield f"{place}: is this node itself; what is sent there comes back for ever"
            else:
                yield f"{place}: is this node's own port, where nobody is called {one.called_ae}; correct host or port"


def _is_own_port(destination: Destination, config: Config) -> bool:
    places = {(config.receive.host, config.receive.port)}
    places |= {endpoint(one) for one in (*config.receive.also_listen, *config.tls.listen)}
    at = {host for host, port in places if port == destination.port}
    return destination.host in at or (bool(at) and is_loopback(destination.host))


def _own_ae_titles(config: Config) -> set[str]:
    return _ae_titles(config.receive.ae_titles, config)


def _ae_titles(titles: Iterable[str], config: Config) -> set[str]:
    """So that those are equal which reception takes for one."""
    return {one if config.receive.ae_titles_case_sensitive else one.upper() for one in titles}


def _about_rules(rules: Iterable[Rule]) -> Iterator[str]:
    for number, rule in enumerate(rules, 1):
        everything = not (rule.calling_ae or rule.called_ae or rule.modality or rule.sop_class or rule.tags)
        if rule.drop and everything:
            yield f'rule[{number}] "{rule.name}": drops everything'
        if rule.modality and is_literal(rule.modality) and rule.modality.upper() not in DEFINED:
            close = difflib.get_close_matches(rule.modality.upper(), sorted(DEFINED), n=1)
            mend = f"; did you mean {close[0]}?" if close else ""
            yield f'rule[{number}] "{rule.name}" modality: {rule.modality!r} is none that PS3.3 defines{mend}'


def _about_staging(staging: Staging) -> Iterator[str]:
    if staging.kind != "s3":
        return
    if staging.encryption == "none":
        yield 'staging encryption = "none": objects are encrypted only if the bucket does so by default; use sse-s3'
    if staging.endpoint.startswith("http://") and not is_loopback(urlsplit(staging.endpoint).hostname or ""):
        yield "staging endpoint: patients' data travel unencrypted; use https"


def _about_redis(config: Config) -> Iterator[str]:
    redis = config.redis
    if not redis.configured:
        shared = redis.max_associations_per_ae or redis.max_failed_associations_per_address
        if shared or any(one.associations_all_nodes for one in config.destination):
            yield "limits over all nodes have no effect without [redis] url (REDIS_URL)"
        return
    url = urlsplit(redis.url.get_secret_value())
    if url.scheme == "redis" and url.password and not is_loopback(url.hostname or ""):
        yield "redis url: its password travels unencrypted; use rediss://"


def _about_profile(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    if config.node.profile == "staging":
        places = Places(names=names_of(config.model_dump(mode="json", include={"caller", "destination"})))
        for one in refusals({name: getattr(config, name) for name in Config.model_fields}, environ):
            yield f"production would refuse this: {places.say(one).sentence}"


def _repeated(items: Iterable[tuple[Location, Hashable]], option: str, text: str) -> Iterator[Problem]:
    seen: set[Hashable] = set()
    for at, value in items:
        if value in seen:
            yield Problem((*at, option), text)
        seen.add(value)


def _texts(table: object, option: str) -> list[str]:
    """A list of texts as it was given; whatever is no text is reported elsewhere."""
    value = table.get(option) if isinstance(table, dict) else None
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _unknown(names: Iterable[str], at: Location, known: list[str]) -> Iterator[Problem]:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            mend = f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none yet'}"
            yield Problem(at, f"no [[destination]] is named {name[:64]!r}; {mend}")


def _open_sidecar(node: Node | None, sidecar: Sidecar | None) -> Iterator[Problem]:
    """Metrics that everybody can read; a strict profile has its own word for it."""
    if node is None or sidecar is None or node.profile in STRICT or "sidecar" in node.allow_plaintext:
        return
    if not (is_loopback(sidecar.host) or sidecar.token.get_secret_value() or sidecar.certificate):
        yield Problem(
            ("sidecar", "host"),
            "others could read this without showing anything: write 127.0.0.1, give `token` or `certificate`, or name "
            '"sidecar" in [node] allow_plaintext where only the cluster reaches it',
        )


def _clashing(receive: Receive | None, sidecar: Sidecar | None) -> Iterator[Problem]:
    if receive and sidecar and receive.port == sidecar.port != 0:
        both = {receive.host, sidecar.host}
        if len(both) == 1 or both & _ANY_ADDRESS:
            yield Problem(("sidecar", "port"), f"{sidecar.port} is also [receive] port; give one of them another")


def _same_folder(good: Mapping[str, Any]) -> Iterator[Problem]:
    if not all(good[section] for section in ("node", "spool", "staging")):
        return
    config = Config(node=good["node"], spool=good["spool"], staging=good["staging"])
    spool, staging = config.spool_dir, config.staging_dir
    if spool.is_relative_to(staging) or staging.is_relative_to(spool):
        yield Problem(("staging", "dir"), "spool and staging lie in one another; give each its own folder")


def _without_credentials(destination: Destination | None, at: Location, environ: Mapping[str, str]) -> list[Problem]:
    if destination is None:
        return []
    try:
        credentials(destination, environ)
    except ConfigError as error:
        return [Problem(at, text) for text in error.problems]
    return []


def _never_staged(staging: Staging | None, receive: Receive | None, at: Location) -> Iterator[Problem]:
    if staging is not None and staging.kind != "s3":
        yield Problem(at, 'staged needs object storage: write [staging] kind = "s3", or leave it spooled')
    if receive is not None and receive.ack == "buffered":
        yield Problem(at, 'staged needs [receive] ack = "spooled": buffered promises nothing')


def _without_storage_keys(staging: Staging | None, environ: Mapping[str, str]) -> list[Problem]:
    try:
        if staging is not None and staging.kind == "s3":
            storage_keys(staging, environ)
    except ConfigError as error:
        return [Problem(("staging", "credentials_env"), text) for text in error.problems]
    return []


def _caller_without_credentials(caller: Caller | None, at: Location, environ: Mapping[str, str]) -> list[Problem]:
    if caller is None:
        return []
    try:
        caller_credentials(caller, environ)
    except ConfigError as error:
        return [Problem(at, text) for text in error.problems]
    return []
