"""Read the configuration: the TOML file, environment variables over it, and every problem at once.

`cli` calls this once, before anything else. It reads the file it is given and the secret files that variables name,
and nothing else; the environment is an argument. ConfigError lists all that has to be mended, each with its place.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from relaypacs.config.cross import problems
from relaypacs.config.environment import overlay
from relaypacs.config.model import Config
from relaypacs.config.places import Places, line_numbers
from relaypacs.config.problems import names_of, validate
from relaypacs.errors import ConfigError

_LONGEST_BYTES = 4 << 20
_POSITION = re.compile(r" \(at line (\d+), column (\d+)\)$")


def load_config(path: Path | None, environ: Mapping[str, str], *, secrets: bool = True) -> Config:
    """The configuration of the file at `path` (None: only defaults) with the variables of `environ` laid over it.

    Without `secrets` those of destinations, callers and storage may be absent: for who only looks.

    ConfigError if anything is wrong. `cross.warnings` tells what is merely doubtful.
    """
    text = _read(path) if path else ""
    raw = _parse(text, str(path))
    variables, found = overlay(raw, environ)
    good, more = validate(raw)
    names = names_of(raw)
    found += more
    found += [one for one in problems(good, raw, names, environ) if secrets or one.at[-1] != "credentials_env"]
    if found:
        places = Places(str(path) if path else "", line_numbers(text), variables, names)
        raise ConfigError([places.sentence(problem) for problem in sorted(found, key=places.line)])
    return Config(**good)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}; give an existing file with --config"]) from None
    if len(content) > _LONGEST_BYTES:
        raise ConfigError([f"{path}: is over {_LONGEST_BYTES >> 20} MiB, so hardly a configuration"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError([f"{path}:{line}: isn't UTF-8; save the file as UTF-8"]) from None


def _parse(text: str, path: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        position = _POSITION.search(said)
        line = int(position[1]) if position else len(text.splitlines())
        place = f"{path}:{line}:{position[2]}" if position else f"{path}:{line}"
        raise ConfigError([f"{place}: isn't TOML: {said[: position.start()] if position else said}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: isn't a configuration: nested too deep"]) from None
