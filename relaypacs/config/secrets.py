"""Secrets: from the environment, or from a file that the environment names (`…_FILE`). Never from the TOML file.

`load_config` uses these for its own variables and checks that what the destinations need is there. No secret ever
stands in a message or in a repr.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from relaypacs.config.model import Caller, Config, Destination, Staging
from relaypacs.errors import ConfigError

_LONGEST_BYTES = 65536
_SECRETS = ("DATABASE_URL", "DB_PASSWORD", "REDIS_URL", "SENTRY_DSN", "RELAYPACS_HASH_KEY", "RELAYPACS_SIDECAR__TOKEN")
"""The variables that hold one whatever is configured."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a destination is shown: `token`, or `username` and `password`, or nothing (all empty)."""

    token: str = field(default="", repr=False)
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def read_variable(name: str, environ: Mapping[str, str]) -> str:
    """The value of a variable, or of the file that `<name>_FILE` names, without a final newline; "" if neither is set.

    ValueError with a sentence if both are set, or the file can't be read, is empty or is no text.
    """
    value, file = environ.get(name, ""), environ.get(f"{name}_FILE", "")
    if not file:
        return value
    if value:
        raise ValueError(f"both {name} and {name}_FILE are set; keep one")
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(_LONGEST_BYTES + 1)
        text = content.decode().rstrip("\r\n")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ValueError(f"{name}_FILE names {file!r}, which can't be read: {why}") from None
    if not text or len(content) > _LONGEST_BYTES:
        raise ValueError(f"{name}_FILE names {file!r}, which {'is too long' if text else 'is empty'}")
    return text


def credentials(destination: Destination, environ: Mapping[str, str]) -> Credentials:
    """The credentials of a destination, read now (so a rotated file is seen). ConfigError with every problem."""
    found = dict.fromkeys(("TOKEN", "USERNAME", "PASSWORD"), "")
    problems = []
    prefix = destination.credentials_env
    for part in found if prefix else ():
        name = f"{prefix}_{part}"
        try:
            found[part] = read_variable(name, environ)
        except ValueError as error:
            problems.append(str(error))
        else:
            problems += [f"{name} {text}" for text in _unfit(part, found[part])]
    token, username, password = found["TOKEN"], found["USERNAME"], found["PASSWORD"]
    if prefix and not problems:
        if token and (username or password):
            problems.append(f"{prefix}_TOKEN and {prefix}_USERNAME or _PASSWORD are set; keep one kind")
        elif not token and not (username and password):
            absent = [f"{prefix}_{part}" for part in ("USERNAME", "PASSWORD") if not found[part]]
            verb, what = ("are", "both") if len(absent) > 1 else ("is", "it")
            problems.append(f"{' and '.join(absent)} {verb} not set; set {what}, or {prefix}_TOKEN, or any as …_FILE")
    if problems:
        raise ConfigError(problems)
    return Credentials(token, username, password)


@dataclass(frozen=True, slots=True)
class StorageKeys:
    """What object storage is shown."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


def storage_keys(staging: Staging, environ: Mapping[str, str]) -> StorageKeys | None:
    """The keys for object storage, read now (so a rotated file is seen); None if the AWS chain is to be asked.

    ConfigError with every problem.
    """
    found: dict[str, str] = {}
    problems = []
    for part in ("ACCESS_KEY", "SECRET_KEY", "SESSION_TOKEN") if staging.credentials_env else ():
        try:
            found[part] = read_variable(f"{staging.credentials_env}_{part}", environ)
        except ValueError as error:
            problems.append(str(error))
    access, secret, token = (found.get(part, "") for part in ("ACCESS_KEY", "SECRET_KEY", "SESSION_TOKEN"))
    if not problems and bool(access) != bool(secret):
        absent = "SECRET_KEY" if access else "ACCESS_KEY"
        problems.append(f"{staging.credentials_env}_{absent} is not set; set it, or the same with _FILE")
    if problems:
        raise ConfigError(problems)
    return StorageKeys(access, secret, token) if access else None


def secret_files(config: Config, environ: Mapping[str, str]) -> dict[str, Path]:
    """The files that hold this configuration's secrets, by the variable's name; none for what is set in another way."""
    prefixes = [one.credentials_env for one in config.destination] + [one.credentials_env for one in config.caller]
    prefixes.append(config.staging.credentials_env)
    parts = ("TOKEN", "USERNAME", "PASSWORD", "ACCESS_KEY", "SECRET_KEY", "SESSION_TOKEN")
    names = [*_SECRETS, *(f"{prefix}_{part}" for prefix in prefixes if prefix for part in parts)]
    found = {name: environ.get(f"{name}_FILE", "") for name in names}
    return {name: Path(file) for name, file in found.items() if file}


def _unfit(part: str, value: str) -> Iterator[str]:
    # Header injection, and RFC 7617 2: a user-id holds no colon.
    if not value.isprintable() or value != value.strip():
        yield "holds a blank at an end or a character that can't be in an HTTP header"
    if part == "USERNAME" and ":" in value:
        yield "holds a colon, which HTTP Basic authentication doesn't allow"


def caller_credentials(caller: Caller, environ: Mapping[str, str]) -> Credentials:
    """What a caller has to show: `username`, and `password` if its user identity has a passcode (PS3.7 D.3.3.7).

    Nothing for a caller without `credentials_env`. ConfigError with every problem.
    """
    prefix = caller.credentials_env
    if not prefix:
        return Credentials()
    found = {}
    problems = []
    for part in ("USERNAME", "PASSWORD"):
        try:
            found[part] = read_variable(f"{prefix}_{part}", environ)
        except ValueError as error:
            problems.append(str(error))
    if not problems and not found["USERNAME"]:
        problems.append(f"{prefix}_USERNAME is not set; set it, or {prefix}_USERNAME_FILE")
    if problems:
        raise ConfigError(problems)
    return Credentials(username=found["USERNAME"], password=found["PASSWORD"])
