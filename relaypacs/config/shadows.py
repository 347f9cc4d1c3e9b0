"""Entries that can never have a say, because another one stands in their way: warnings of `cross`, one sentence each.

A caller is admitted by the first entry that fits, an exact AE title before a pattern (`policy.admission`). Said only
where it is certain: an entry that is merely narrower in one respect is not shadowed. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_network

from relaypacs.config.destination import Destination
from relaypacs.config.model import Caller


def shadowed_callers(callers: Sequence[Caller], *, case_sensitive: bool) -> Iterator[str]:
    """Entries that are never chosen, each with the one that is."""
    for number, one in enumerate(callers):
        for before, other in enumerate(callers[:number]):
            if _covers(other, one, case_sensitive=case_sensitive):
                yield (
                    f'caller[{number + 1}] "{one.ae_title}": has no effect, for caller[{before + 1}] '
                    f'"{other.ae_title}" stands before it and admits all that it would; take it out, or put it first'
                )
                break


def same_destinations(destinations: Iterable[Destination]) -> Iterator[str]:
    """Destinations that are one and the same peer under two names."""
    seen: dict[tuple[object, ...], str] = {}
    for number, one in enumerate(destinations, 1):
        place = f'destination[{number}] "{one.name}"'
        if one.kind == "dimse":
            peer: tuple[object, ...] = (one.host.lower(), one.port, one.called_ae, one.calling_ae)
        else:
            peer = (one.url.rstrip("/"), one.credentials_env)
        if peer in seen:
            yield f"{place}: is where {seen[peer]} is; what goes to both is sent there twice"
        seen.setdefault(peer, place)


def _covers(other: Caller, one: Caller, *, case_sensitive: bool) -> bool:
    """Whether everybody whom `one` would admit is admitted by `other`, which stands before it."""
    if one.credentials_env != other.credentials_env or (other.certificate and other.certificate != one.certificate):
        return False
    if other.called_ae and not (
        one.called_ae and _folded(one.called_ae, case_sensitive) <= _folded(other.called_ae, case_sensitive)
    ):
        return False
    return _title_covers(other.ae_title, one.ae_title, case_sensitive) and _networks_cover(other.networks, one.networks)


def _folded(titles: Iterable[str], case_sensitive: bool) -> set[str]:
    return {one if case_sensitive else one.upper() for one in titles}


def _title_covers(pattern: str, title: str, case_sensitive: bool) -> bool:
    if not case_sensitive:
        pattern, title = pattern.upper(), title.upper()
    if pattern == title:
        return True
    if not set(title) & set("*?"):
        return False  # an exact title goes before every pattern
    # Read as text, the wildcards of `title` are matched by `*` only; brackets mean themselves in AE titles.
    return "?" not in pattern and fnmatchcase(title, pattern.replace("[", "[[]"))


def _networks_cover(wide: Sequence[str], narrow: Sequence[str]) -> bool:
    if not wide:
        return True
    within = [ip_network(one, strict=False) for one in wide]
    return bool(narrow) and all(
        any(one.version == other.version and one.subnet_of(other) for other in within)  # type: ignore[arg-type]
        for one in (ip_network(text, strict=False) for text in narrow)
    )
