"""What destinations refuse, remembered in a file: pairs of SOP class and transfer syntax, by destination.

The relay process writes it (`forward.refusals`), receive processes read it when an association is requested and it has
changed (`receive.learned`), and the command line shows it and forgets. Who changes it holds a lock beside it and
renames a whole file into place, so readers need none. A destination that is configured otherwise now than when it
refused has nothing remembered: its identity is other. A file that can't be read says nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from relaypacs.config import Config
from relaypacs.config.destination import Destination

Pair = tuple[str, str]
"""Abstract syntax (SOP class) and transfer syntax, as UIDs."""
Stamp = tuple[int, int, int]
_FORM = 1
_LONGEST_BYTES = 16 << 20


class Seen(NamedTuple):
    """When a pair was last seen refused (seconds since the epoch), and whether by a C-STORE status: then no
    association can tell that it is taken now."""

    at: float
    by_status: bool = False


class Known(NamedTuple):
    """What one destination refuses, and as whom it was configured when it did."""

    identity: str
    refused: Mapping[Pair, Seen]


def identity(destination: Destination, calling_ae: str) -> str:
    """What a destination is: its options, and whom we say we are where it configures nothing."""
    said = json.dumps([destination.model_dump(mode="json"), calling_ae], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def of_config(path: Path, config: Config) -> dict[str, Mapping[Pair, Seen]]:
    """What the destinations refuse as they are configured here."""
    found = read(path)
    title = config.receive.ae_titles[0]
    return {
        one.name: found[one.name].refused
        for one in config.destination
        if one.refused_for_seconds and one.name in found and found[one.name].identity == identity(one, title)
    }


def stamp(path: Path) -> Stamp | None:
    """Another value after each change of the file; None where there is none."""
    try:
        at = path.stat()
    except OSError:
        return None
    return at.st_ino, at.st_mtime_ns, at.st_size


def read(path: Path) -> dict[str, Known]:
    """What is remembered, by destination; nothing if the file is not there or makes no sense."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        if path.stat().st_size <= _LONGEST_BYTES:
            document = json.loads(path.read_bytes())
            if document["form"] == _FORM:
                return {str(name): _known(one) for name, one in document["destinations"].items()}
    return {}


@contextlib.contextmanager
def editing(path: Path) -> Iterator[dict[str, Known]]:
    """What is remembered, alone: what is changed in it is written when the block ends. OSError."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = read(path)
        before = dict(found)
        yield found
        found = {name: one for name, one in found.items() if one.refused}
        if found != before:
            _write(path, found)


def forget(path: Path, name: str, *, but: Collection[Pair] = ()) -> int:
    """Forget what a destination refuses, but these pairs; how many were forgotten. OSError."""
    if stamp(path) is None:
        return 0
    with editing(path) as found:
        if name not in found:
            return 0
        known = found[name]
        left = {pair: seen for pair, seen in known.refused.items() if pair in but}
        found[name] = Known(known.identity, left)
        return len(known.refused) - len(left)


def _known(one: Mapping[str, object]) -> Known:
    rows: Iterable[tuple[str, str, float, bool]] = one["refused"]  # type: ignore[assignment]
    return Known(str(one["identity"]), {(str(a), str(b)): Seen(float(at), bool(status)) for a, b, at, status in rows})


def _write(path: Path, found: Mapping[str, Known]) -> None:
    document = {
        "form": _FORM,
        "destinations": {
            name: {
                "identity": one.identity,
                "refused": [[*pair, round(seen.at, 3), seen.by_status] for pair, seen in sorted(one.refused.items())],
            }
            for name, one in sorted(found.items())
        },
    }
    draft = path.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
