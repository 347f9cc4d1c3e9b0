"""What `fallback` and `verify` of the destinations say together: no circles, no destination that is only its own help.

Called by `cross`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from relaypacs.config.model import Destination, Staging
from relaypacs.config.places import Problem


def circles(destinations: Sequence[Destination | None]) -> Iterator[Problem]:
    """Destinations whose fallbacks lead back to them. One that did not validate is None."""
    after = {one.name: one.fallback for one in destinations if one is not None and one.fallback != one.name}
    told: set[str] = set()
    for number, one in enumerate(destinations):
        if one is None or one.name in told:
            continue
        way = _way(one.name, after)
        if way[-1] == one.name and len(way) > 1:
            told.update(way)
            yield Problem(
                ("destination", number, "fallback"),
                f"goes in a circle ({' -> '.join(way)}), so nothing would arrive anywhere; leave one of them out",
            )


def _way(start: str, after: Mapping[str, str]) -> list[str]:
    """The fallbacks from `start` on, until there is none or one comes again."""
    way = [start]
    while (following := after.get(way[-1], "")) and following not in way:
        way.append(following)
    return [*way, following] if following else way


def unkept(destinations: Iterable[Destination], staging: Staging) -> Iterator[str]:
    """A warning for each that is verified though nothing is kept that could be sent again."""
    for number, one in enumerate(destinations, 1):
        if one.verify != "none" and staging.kept == "none":
            yield (
                f'destination[{number}] "{one.name}": what `verify` finds missing can\'t be sent again with [staging] '
                'keep = "none"; keep it for a day or more'
            )
