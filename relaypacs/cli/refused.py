"""What destinations were seen to refuse, as `destination list` shows it, and how it is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from relaypacs import refusals
from relaypacs.cli import say
from relaypacs.cli.tracing import folded
from relaypacs.config import Config, Destination
from relaypacs.errors import ConfigError
from relaypacs.forward.names import spoken

if TYPE_CHECKING:
    from relaypacs.forward.examine import Examined


def as_json(config: Config, name: str) -> list[dict[str, object]]:
    """The pairs that a destination refuses, and when that was seen last."""
    return [
        {"sop_class": pair[0], "transfer_syntax": pair[1], "seen_at": say.iso(seen.at)}
        for pair, seen in sorted(refusals.of_config(config.refusals_file, config).get(name, {}).items())
    ]


def lines(config: Config) -> Iterator[str]:
    """A line per destination that refuses something, and how to be rid of it."""
    for name, refused in refusals.of_config(config.refusals_file, config).items():
        if refused:
            pairs = "; ".join(f"{spoken(sop_class)} in {spoken(syntax)}" for sop_class, syntax in sorted(refused))
            since = say.when(max(seen.at for seen in refused.values()))
            yield from folded(
                [
                    f"{name} refuses, last seen {since}: {pairs}. It is offered to no caller whose objects go there "
                    f"alone. `relaypacs destination test {name}` asks again, `destination forget {name}` forgets it."
                ]
            )


def forget(config: Config, name: str) -> int:
    """Forget it all; 1 if there was nothing."""
    count = _forget(config, name, frozenset())
    if not count:
        say.tell(f"{name} is not known to refuse anything.")
        return 1
    say.out(f"{say.counted(count, 'refusal')} of {name} forgotten.")
    return 0


def learn(config: Config, destination: Destination, found: Examined) -> None:
    """Forget what a destination refused that answers well, but what it refuses in the matrix."""
    if not found.ok or found.accepted is None:
        return
    from relaypacs.forward.examine import CLASSES, SYNTAXES

    asked = {(sop_class, syntax) for sop_class in CLASSES for syntax in SYNTAXES}
    again = frozenset(asked - found.accepted)
    known = refusals.of_config(config.refusals_file, config).get(destination.name, {})
    if not known:
        return
    count = _forget(config, destination.name, again)
    left = len(known) - count
    if count:
        said = f"{say.counted(count, 'refusal')} forgotten: callers are offered that again"
        found.add("memory", None, said + (f"; {left} refused now too" if left else ""))


def _forget(config: Config, name: str, but: frozenset[refusals.Pair]) -> int:
    try:
        return refusals.forget(config.refusals_file, name, but=but)
    except OSError as problem:
        raise ConfigError(
            [f"{config.refusals_file} can't be changed: {problem.strerror}; run this as the node's user"]
        ) from None
