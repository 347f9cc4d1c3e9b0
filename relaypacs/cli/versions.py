"""`relaypacs config history` and `config rollback`: the configurations a node has taken, and the way back to one."""

from __future__ import annotations

import os
import re
from pathlib import Path

from relaypacs.cli import noted, reloading, say, writing
from relaypacs.config import load_config
from relaypacs.config.files import Source, digest, files_of, read
from relaypacs.config.load import load_sources
from relaypacs.errors import ConfigError
from relaypacs.node.versions import Version, versions

_STATE_DIR = re.compile(r'^\s*state_dir\s*=\s*["\']([^"\']+)["\']', re.MULTILINE)
_DEFAULT = "/var/lib/relaypacs"


def state_dir_of(place: Path) -> Path:
    """[node] state_dir, also of a configuration that is wrong elsewhere: then it is needed most."""
    try:
        return load_config(place, os.environ, secrets=False).node.state_dir
    except ConfigError:
        if given := os.environ.get("RELAYPACS_NODE__STATE_DIR"):
            return Path(given)
        text = "\n".join(one.read_text(encoding="utf-8", errors="replace") for one in files_of(place))
        found = _STATE_DIR.search(text)
        return Path(found[1] if found else _DEFAULT)


def history(place: Path, *, as_json: bool) -> int:
    """Every version that is kept, the newest first; 1 if there is none."""
    state_dir = state_dir_of(place)
    kept = versions(state_dir)[::-1]
    in_force = {one.version for one in reloading.states(state_dir / "run")}
    if as_json:
        say.out_json(
            [
                {
                    "version": one.number,
                    "taken_at": say.iso(one.taken_at),
                    "place": one.place,
                    "in_force": one.number in in_force,
                }
                for one in kept
            ]
        )
    elif kept:
        rows = [
            [str(one.number), say.when(one.taken_at), "in force" if one.number in in_force else "", one.place]
            for one in kept
        ]
        say.out_table(["version", "taken", "", "from"], rows)
    if not kept:
        say.tell(f"No version is kept in {state_dir / 'config'}: the node has not run yet.")
    return 0 if kept else 1


def rollback(place: Path, number: int | None) -> int:
    """Write the files of a version back (default: the one before what `place` holds), and have a running node take
    it. 1 if the node refuses it. ConfigError where it can't be, and nothing is changed."""
    state_dir = state_dir_of(place)
    chosen = _chosen(versions(state_dir), number, _digest(place))
    # The node's own order and names; what is there beside them was not part of it.
    folder = place if place.is_dir() else place.parent
    stored = chosen.sources()
    if not place.is_dir() and len(stored) != 1:
        raise ConfigError([f"version {chosen.number} was a folder of {len(stored)} files, and {place} is a file"])
    wanted = [Source(folder / one.path.name if place.is_dir() else place, one.text) for one in stored]
    config = load_sources(wanted, os.environ, place=str(place), secrets=False)
    away = set(files_of(place)) - {one.path for one in wanted}
    done = [writing.replace(one.path, one.text) for one in wanted] + [writing.put_away(one) for one in sorted(away)]
    say.out(f"The configuration is that of version {chosen.number} again.")
    if not (code := writing.finish(done, place, state_dir / "run")):
        noted.changed(config, "config rollback", str(chosen.number))
    return code


def _digest(place: Path) -> str:
    try:
        return digest(read(place))
    except ConfigError:
        return ""  # whatever is there is no version


def _chosen(kept: list[Version], number: int | None, now: str) -> Version:
    if number is not None:
        found = [one for one in kept if one.number == number]
        if not found:
            known = f"there are {kept[0].number} to {kept[-1].number}" if kept else "the node has not run yet"
            raise ConfigError([f"no version {number} is kept; {known}"])
        return found[0]
    if not kept:
        raise ConfigError(["no version is kept: the node has not run yet"])
    at = max((place for place, one in enumerate(kept) if one.digest == now), default=len(kept))
    if at == 0:
        raise ConfigError([f"version {kept[0].number} is the oldest that is kept, and is what the files hold"])
    return kept[at - 1]
