"""Read the configuration: the TOML file or folder of files, environment variables over it, every problem at once.

`cli` calls this before anything else, and the supervisor when the files have changed. It reads what it is given and
the secret files that variables name, and nothing else; the environment is an argument. ConfigError lists all that has
to be mended, each with its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from relaypacs.config.cross import problems
from relaypacs.config.environment import overlay
from relaypacs.config.files import Source, merge, read
from relaypacs.config.model import Config
from relaypacs.config.places import Places, Problem
from relaypacs.config.problems import names_of, validate
from relaypacs.config.profiles import STRICT, refusals, unknown_exceptions
from relaypacs.errors import ConfigError


def load_config(path: Path | None, environ: Mapping[str, str], *, secrets: bool = True) -> Config:
    """The configuration at `path`, a file or a folder (None: only defaults), with variables of `environ` laid over it.

    Without `secrets` those of destinations, callers and storage may be absent: for who only looks.

    ConfigError if anything is wrong. `cross.warnings` tells what is merely doubtful.
    """
    return load_sources(read(path) if path else [], environ, place=str(path) if path else "", secrets=secrets)


def load_sources(
    sources: Sequence[Source], environ: Mapping[str, str], *, place: str = "", secrets: bool = True
) -> Config:
    """As `load_config`, of texts that were read already; `place` is what they are together, for messages."""
    merged = merge(sources)
    variables, found = overlay(merged.raw, environ)
    good, more = validate(merged.raw)
    names = names_of(merged.raw)
    found += merged.problems
    found += more
    destinations = [name for at, name in names.items() if at[0] == "destination"]
    between = [*problems(good, merged.raw, names, environ), *unknown_exceptions(good, destinations)]
    if good["node"] is not None and good["node"].profile in STRICT:
        refused = refusals(good, environ)
        between += [Problem(one.at, f"{good['node'].profile} refuses this: {one.text}") for one in refused]
    found += [one for one in between if secrets or one.at[-1] != "credentials_env"]
    if found:
        places = Places(place, merged.places, variables, names)
        raise ConfigError([one.sentence for one in sorted(map(places.say, found), key=lambda one: one.order)])
    return Config(**good)
